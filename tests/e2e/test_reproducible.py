"""Two builds of a Debian plan give the same bytes, whoever bootstraps the root and makes its initramfs.

The first of the two is what other tests built and booted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.artifact.artifact import Artifact
from tests.conftest import Virtroot
from tests.e2e.comparison import made_elsewhere, same_bytes
from tests.e2e.test_booster import real, stand_in, with_booster
from tests.mirror import BOOSTER

Recipe = Callable[..., Path]


def initramfs_tools(recipe: Recipe) -> Path:
    return recipe("e2e-trixie", bootstrap="mmdebstrap")


def dracut(recipe: Recipe) -> Path:
    return recipe("e2e-dracut", generator="dracut", bootstrap="mmdebstrap")


def booster(recipe: Recipe) -> Path:
    """As it was built last; debootstrap is its bootstrapper."""
    return (
        with_booster(recipe, real, "trixie") if os.environ.get(BOOSTER) else with_booster(recipe, stand_in, "bookworm")
    )


@pytest.mark.parametrize(
    ("name", "write"), [("e2e-trixie", initramfs_tools), ("e2e-dracut", dracut), ("e2e-booster", booster)]
)
def test_two_builds_of_one_plan_give_the_same_bytes(
    inv: Virtroot, recipe: Recipe, tmp_path: Path, name: str, write: Callable[[Recipe], Path]
) -> None:
    latest = inv.output / name / "latest"
    path = write(recipe)
    if not latest.exists():
        inv("build", "--recipe", str(path))
    first = Artifact(latest.resolve())
    second = made_elsewhere(inv, path, tmp_path / "second")
    if first.manifest.mirror_state != second.manifest.mirror_state:
        # Debian's mirror moved on since other tests built the first one.
        first = made_elsewhere(inv, path, tmp_path / "first")
    assert first.manifest.plan == second.manifest.plan
    same_bytes(inv, first, second)
