"""Locks that the kernel drops with the process that holds them, here or where libvirt is."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.errors import VirtrootError
from pipelines.host.target import Target
from pipelines.text import trim


class Busy(VirtrootError):
    """Another task holds the lock of ``what``; ``who`` names that task."""

    def __init__(self, what: str, who: str = "") -> None:
        super().__init__(f"another task works on {what}{f': {who}' if who else ''}", "wait for it, then try again")


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` of this machine; raises `Busy` when another task has it.

    ``what`` is what the lock stands for, in words. Raises `VirtrootError` where there can be no such file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise VirtrootError(
            f"cannot lock {what}: {path}: {error.strerror}", "run this as the user who owns it, or mend its owner"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(what, trim(path.read_text(encoding="utf-8", errors="replace")[:200])) from error
        with suppress(OSError):  # a full disk is no reason to stop
            os.truncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"process {os.getpid()}, since {time.strftime('%F %T %Z')}\n".encode())
        yield


@contextmanager
def wait_for(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` of this machine as soon as nobody else does; for what takes moments.

    Raises OSError where there can be no such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def claim(handle: IO[bytes]) -> bool:
    """Lock an open file until it is closed, or its process ends; says no where another task has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The lock is held by a program whose input is this task's: however the task ends, the input does, and the lock with it.
_HOLD = """
exec 2>&1
# Who may open it for reading could hold the lock, too.
umask 077
mkdir -p "${1%/*}"
chmod 700 "${1%/*}"
path=$1
shift
exec 9> "$path"
if flock "$@" 9; then echo held; exec cat > /dev/null; else echo busy; fi
"""


#: Where the locks of virtroot's tasks are on libvirt's machine.
LOCKS = "/run/virtroot"


@contextmanager
def on(target: Target, path: str, what: str, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` on ``target``; when another task has it, ``wait``, for what takes moments.

    Otherwise that raises `Busy`. ``what`` is what the lock stands for, in words. Any number of tasks hold it ``shared``
    at once.
    """
    how = [*([] if wait else ["--nonblock"]), *(["--shared"] if shared else [])]
    with target.holding(["sh", "-ec", _HOLD, "hold", path, *how]) as said:
        if said == "busy":
            raise Busy(what)
        if said != "held":
            raise VirtrootError(f"cannot lock {what}: {said}", "run this as root, on the machine libvirt is on")
        yield
