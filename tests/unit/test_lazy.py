"""A task waits for the import of what it needs alone."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pipelines
from pipelines import lazy
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose modules are found in the package."""
    before = set(sys.modules)
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(tmp_path)])
    yield tmp_path
    for name in set(sys.modules) - before:
        sys.modules.pop(name)
        vars(pipelines).pop(name.rpartition(".")[2], None)


def test_a_module_runs_when_it_is_used_and_only_in_the_block_waits(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "later.py").write_text("print('runs')\nNAME = 7\n")
    (place / "atonce.py").write_text("RAN = True\n")
    with lazy.imports():
        from pipelines import later  # type: ignore[attr-defined]
    assert capsys.readouterr().out == ""
    assert "pipelines.later" not in sys.modules
    assert later.NAME == 7
    later.NAME = 8
    assert capsys.readouterr().out == "runs\n"
    assert importlib.import_module("pipelines.later").NAME == 8
    assert vars(importlib.import_module("pipelines.atonce"))["RAN"]


def test_a_module_that_fails_says_why_however_it_is_reached_and_each_time(place: Path) -> None:
    (place / "broken.py").write_text("NAME = 7\nraise RuntimeError('the reason')\n")
    (place / "user.py").write_text("from pipelines.broken import NAME\n")
    with lazy.imports():
        from pipelines import broken, user  # type: ignore[attr-defined]
    for _ in range(2):
        for module in (broken, user):
            with pytest.raises(RuntimeError, match="the reason"):
                module.NAME  # noqa: B018 - an access is a use


def test_a_module_that_two_threads_use_first_is_whole_for_both(place: Path) -> None:
    (place / "slow.py").write_text("import time\ntime.sleep(0.3)\nNAME = 7\n")
    with lazy.imports():
        from pipelines import slow  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: slow.NAME, range(4))) == [7] * 4


def test_a_ctrl_c_during_an_import_comes_after_it(place: Path) -> None:
    """Neither lost, nor taken for a failure of the module, of which no half stays."""
    (place / "kills.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException as error:\n    raise ImportError('swallowed') from error\nNAME = 7\n"
    )
    with lazy.imports():
        from pipelines import kills  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            kills.NAME  # noqa: B018 - an access is a use
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert kills.NAME == 7


def test_the_block_itself_cannot_use_a_module(place: Path) -> None:
    (place / "later.py").write_text("NAME = 7\n")
    with pytest.raises(ImportError, match="is used in the block"), lazy.imports():
        _ = importlib.import_module("pipelines.later").NAME
    assert importlib.import_module("pipelines.later").NAME == 7
