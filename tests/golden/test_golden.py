"""Text that people and libvirt read, compared whole; `pytest tests/golden --regenerate` writes the files anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.builder import inputs
from pipelines.recipe.plan import as_text
from tests.support.domains import DOMAINS, domain

FILES = Path(__file__).parent / "files"

PLANS = {
    "debian": {},
    "debian-bookworm-mmdebstrap": {"release": "bookworm", "bootstrap": "mmdebstrap"},
    "debian-dracut": {"generator": "dracut"},
    "debian-none": {"generator": "none"},
    "arch": {},
    "arch-booster": {"generator": "booster"},
    "arch-dracut": {"generator": "dracut"},
    "arch-none": {"generator": "none"},
}


def compare(path: Path, text: str, regenerate: bool) -> None:
    if regenerate:
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_domain(name: str, request: pytest.FixtureRequest) -> None:
    compare(FILES / f"domain-{name}.xml", domain(name), request.config.getoption("--regenerate"))


@pytest.mark.parametrize("name", sorted(PLANS))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    text = as_text(inputs.find(name.partition("-")[0], overrides=PLANS[name]).plan) + "\n"
    compare(FILES / f"plan-{name}.txt", text, request.config.getoption("--regenerate"))
