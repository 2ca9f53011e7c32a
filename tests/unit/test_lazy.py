"""A task waits for the import of what it needs alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.cli import lazy
from pipelines.settings import CHECKOUT

#: Libraries that take longest to import.
HEAVY = {"docker", "requests", "pytest", "testinfra", "jinja2"}


@pytest.mark.parametrize("argument", ["--version", "--help", "--list"])
def test_what_needs_no_engine_imports_no_client_of_one(argument: str) -> None:
    argv = [sys.executable, "-X", "importtime", str(CHECKOUT / "pipelines/cli/__main__.py"), argument]
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    assert "tasks" in imported
    assert imported & HEAVY == set()


def test_a_module_runs_when_it_is_used_and_only_in_the_block_waits(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Afterwards it is as any other; one that fails does so where it is used."""
    import pipelines

    (tmp_path / "later.py").write_text("print('runs')\nNAME = 7\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')\n")
    (tmp_path / "atonce.py").write_text("RAN = True\n")
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(tmp_path)])
    ran: list[str] = []
    monkeypatch.setattr("builtins.print", ran.append)
    with lazy.imports():
        from pipelines import broken, later  # type: ignore[attr-defined]
    assert ran == []
    assert later.NAME == 7
    assert ran == ["runs"]
    with pytest.raises(RuntimeError, match="broken"):
        broken.anything  # noqa: B018 - an access is a use
    from pipelines import atonce  # type: ignore[attr-defined]

    assert vars(atonce)["RAN"]
    for name in ("later", "broken", "atonce"):
        sys.modules.pop(f"pipelines.{name}", None)
        vars(pipelines).pop(name, None)
