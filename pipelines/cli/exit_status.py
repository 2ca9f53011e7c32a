"""How ./inv ends: 0 done, 1 a check said no, 2 the user can mend it, 130 interrupted, 70 a bug of virtroot's."""

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

from pipelines.errors import VirtrootError

_MENDS = {
    errno.ENOSPC: "make room on that disk, then run it again",
    errno.EDQUOT: "make room within your quota, then run it again",
    errno.EACCES: "run it as root, or as the user that owns it",
    errno.EPERM: "run it as root, or as the user that owns it",
    errno.EROFS: "mount it for writing, or name another place",
    errno.ENOENT: "see whether the path is right",
}


def status(task: Callable[[], object]) -> int:
    """Run ``task`` and return the exit status; whatever ended it is said on stderr, once."""
    try:
        return _flushed(_judged(task))
    except KeyboardInterrupt:
        # One more Ctrl-C, while Python ends, would bring the traceback that this is here to spare.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _complain("interrupted")
        return _flushed(128 + signal.SIGINT)


def _judged(task: Callable[[], object]) -> int:
    try:
        task()
    except VirtrootError as error:
        _trace_if_wanted()
        _complain(str(error))
        return error.exit_code
    except SystemExit as ended:
        if isinstance(ended.code, str):
            _complain(ended.code)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BrokenPipeError as error:
        return 0 if _reader_left() else _system_said(error)
    except OSError as error:
        return _system_said(error)
    except Exception:  # whatever it is, it is shown
        _complain(traceback.format_exc())
        _complain("error: virtroot has a bug\ntry: report it with the lines above")
        return os.EX_SOFTWARE
    return 0


def _system_said(error: OSError) -> int:
    """Say what the operating system refused and where, as of any other thing that the user can mend."""
    _trace_if_wanted()
    paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    what = " ".join((error.strerror or str(error) or type(error).__name__).split())
    hint = _MENDS.get(error.errno or 0, "./inv --debug TASK shows where that came from")
    _complain(str(VirtrootError(f"{what}: {paths}" if paths else what, hint)))
    return VirtrootError.exit_code


def _flushed(code: int) -> int:
    """Write out what is left; Python would do that after everything else, and complain in its own words."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code if isinstance(error, BrokenPipeError) else code or _system_said(error)
    return code


def _reader_left() -> bool:
    """Say whether whoever read our output has seen enough, as ``head`` does."""
    poll = select.poll()
    poll.register(1, 0)
    poll.register(2, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _trace_if_wanted() -> None:
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        _complain(traceback.format_exc())


def _complain(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201 - the progress's console ends the program when its reader leaves
