"""The exit status of ./inv: 0 success, 1 a check failed, 2 an error, 70 a bug in virtroot, 130 interrupted."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from pipelines import invocation
from pipelines.errors import VirtrootError

_HINTS = {
    errno.ENOSPC: "free space on that disk, then run it again",
    errno.EDQUOT: "free space in your quota, then run it again",
    errno.EACCES: "run it as root, or as the owner of the path",
    errno.EPERM: "run it as root, or as the owner of the path",
    errno.EROFS: "mount the file system read-write, or use another path",
    errno.ENOENT: "check the path",
}


def run_task(task: Callable[[], object]) -> int:
    """Run ``task``, print an error that ended it to stderr, and return the exit status."""
    try:
        return _flush_streams(_run(task))
    except KeyboardInterrupt:
        # A second Ctrl-C while Python exits would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _print_error("interrupted")
        return _flush_streams(128 + signal.SIGINT)


def _run(task: Callable[[], object]) -> int:
    try:
        task()
    except VirtrootError as error:
        _print_traceback_if_debug()
        _print_error(str(error))
        return error.exit_code
    except SystemExit as ended:
        if isinstance(ended.code, str):
            _print_error(ended.code)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BrokenPipeError as error:
        return 0 if _has_reader_left() else _report_os_error(error)
    except OSError as error:
        return _report_os_error(error)
    except Exception:  # a bug: print it
        _print_error(traceback.format_exc())
        _print_error("error: virtroot has a bug\ntry: report it with the lines above")
        return os.EX_SOFTWARE
    return 0


def _report_os_error(error: OSError) -> int:
    """Print an error of the operating system, with its paths, in the form of a VirtrootError; return its exit code."""
    _print_traceback_if_debug()
    paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    what = " ".join((error.strerror or str(error) or type(error).__name__).split())
    hint = _HINTS.get(error.errno or 0, "run ./inv --debug TASK for a traceback")
    _print_error(str(VirtrootError(f"{what}: {paths}" if paths else what, hint)))
    return VirtrootError.exit_code


def _flush_streams(code: int) -> int:
    """Flush stdout and stderr and return the exit code. Python would flush at exit and print a traceback on failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code if isinstance(error, BrokenPipeError) else code or _report_os_error(error)
    return code


def _has_reader_left() -> bool:
    """Return whether the reader of stdout or stderr has closed its pipe, as ``head`` does."""
    poll = select.poll()
    poll.register(1, 0)
    poll.register(2, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _print_traceback_if_debug() -> None:
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        _print_error(traceback.format_exc())


def _print_error(text: str) -> None:
    with suppress(OSError):
        print(invocation.replace_name(text), file=sys.stderr)  # noqa: T201 - rich's console exits when its reader closes the pipe
