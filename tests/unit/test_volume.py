"""How much a task prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tasks
from pipelines import log
from pipelines.errors import VirtrootError
from pipelines.target.target import Local


@pytest.fixture(autouse=True)
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The console keeps the stream that it was made with.
    monkeypatch.setattr(log, "_console", None)
    yield
    log.set_volume(quiet=False, verbose=False)


def print_all(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    log.say("progress")
    log.warn("careful")
    with log.step("a step"), log.progress("copying", 10) as advance:
        advance(10)
    Local().run(["sh", "-c", "echo $1", "echo", "two words"])
    log.result("result")
    found = capsys.readouterr()
    return found.out, found.err.splitlines()


def test_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = print_all(capsys)
    assert out == "result\n"
    assert [line.split("  ")[0] for line in err] == ["progress", "warning: careful", "copying", "a step"]


def test_quiet_leaves_warnings_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_volume(quiet=True, verbose=False)
    assert print_all(capsys) == ("result\n", ["warning: careful"])


def test_verbose_adds_commands(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_volume(quiet=False, verbose=True)
    out, err = print_all(capsys)
    assert out == "result\n"
    assert "+ sh -c 'echo $1' echo 'two words'" in err
    log.detail(["sh", "-c", "x" * 1000, "https://user:secret@example.org/"])
    log.detail(["sh", "\x1b[2J\nforged"])
    long, odd = capsys.readouterr().err.splitlines()
    assert len(long) < 320
    assert long.endswith("…")
    assert "\x1b" not in odd


def test_a_password_in_a_command_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_volume(quiet=False, verbose=True)
    log.detail(["curl", "https://user:secret@example.org/"])
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("line", [["-q", "schema"], ["schema", "--quiet"], ["-v", "schema"], ["schema", "-v"]])
def test_the_options_stand_anywhere(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", *line])
    assert capsys.readouterr().out.startswith("{")
    assert (log._quiet, log._verbose) == (not {*line}.isdisjoint({"-q", "--quiet"}), "-v" in line)


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(VirtrootError, match="exclude each other"):
        tasks.program.run(["inv", "-qv", "schema"])
