"""Set-up installs an engine only where this machine's own is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import setup
from pipelines.errors import VirtrootError
from pipelines.settings import Settings


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DOCKER_HOST": "tcp://127.0.0.1:9"}, "no Docker engine answers (tcp://127.0.0.1:9, from DOCKER_HOST)"),
        ({"DOCKER_HOST": "ssh://root@far"}, "an engine over ssh is not supported"),
        ({"DOCKER_CONTEXT": "near"}, "no Docker context near"),
    ],
)
def test_another_machines_engine_is_not_installed_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for forbidden in ("_install", "_start_engine"):
        monkeypatch.delattr(setup, forbidden)
    with pytest.raises(VirtrootError) as error:
        setup.setup(Settings())
    assert says in error.value.what
