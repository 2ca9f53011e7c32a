"""The exit status and the message at the end of a task."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable

import pytest

from pipelines.cli import exit_status
from pipelines.errors import CheckFailed, VirtrootError


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (lambda: None, 0, ""),
        (raising(VirtrootError("no guest web", "./inv list")), 2, "error: no guest web\ntry: ./inv list\n"),
        (raising(CheckFailed("1 of 2", "read")), 1, "error: 1 of 2\ntry: read\n"),
        (raising(SystemExit(7)), 7, ""),
        (raising(SystemExit()), 0, ""),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (
            raising(PermissionError(errno.EACCES, "Permission denied", "output/x")),
            2,
            "error: Permission denied: output/x\ntry: run it as root, or as the owner of the path\n",
        ),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            2,
            "error: No space left on device\ntry: free space on that disk, then run it again\n",
        ),
        (
            raising(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")),
            2,
            "error: Invalid cross-device link: a and b\ntry: run ./inv --debug TASK for a traceback\n",
        ),
    ],
)
def test_the_end_of_a_task_gives_its_status_and_message(
    body: Callable[[], None],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert exit_status.run_task(body) == status
    assert capsys.readouterr().err == said


def test_a_broken_pipe_other_than_the_output_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status.run_task(raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 2
    assert "error: Broken pipe\n" in capsys.readouterr().err


def test_a_bug_is_shown_with_a_traceback_and_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status.run_task(raising(ZeroDivisionError("division"))) == 70
    assert "ZeroDivisionError: division" in capsys.readouterr().err
