"""Locks that end with the process that holds them, on this machine and on libvirt's host."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.target import payload_call
from pipelines.target.target import Local, Target
from pipelines.text import trim


class Busy(VirtrootError):
    """Another task holds the lock of ``what``; ``who`` names that task."""

    def __init__(self, what: str, who: str = "") -> None:
        super().__init__(f"another task works on {what}{f': {who}' if who else ''}", "wait for it, then try again")


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` of this machine; raises `Busy` if another task holds it.

    ``what`` names what is locked. Raises `VirtrootError` if the file cannot be made.
    """
    try:
        handle = _opened(path)
    except OSError as error:
        raise VirtrootError(
            f"cannot lock {what}: {path}: {error.strerror}", "run this as the user who owns it, or change its owner"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            said = trim(path.read_text(encoding="utf-8", errors="replace")[:200])
            holder = _find_holder(Local(), str(path))
            # A task wrote the time to the file. Another program that locked the file wrote nothing.
            wrote = said.startswith(f"{holder.partition(' of ')[0]},")
            raise Busy(what, said if wrote else holder or said) from error
        with suppress(OSError):  # a full disk does not prevent the lock
            os.truncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"process {os.getpid()}, since {time.strftime('%F %T %Z')}\n".encode())
        yield


@contextmanager
def wait_for(path: Path) -> Iterator[None]:
    """Wait for the lock file ``path`` of this machine and hold it, for short operations.

    Raises OSError if the file cannot be made, or if another process holds it for longer than `PATIENCE`.
    """
    with _opened(path) as handle:
        deadline = time.monotonic() + PATIENCE
        while not claim(handle):
            if time.monotonic() > deadline:
                who = _find_holder(Local(), str(path)) or "another process"
                raise TimeoutError(errno.ETIMEDOUT, f"{who} has held it for {PATIENCE} s", str(path))
            time.sleep(_POLL)
        yield


def _opened(path: Path) -> IO[bytes]:
    """Open a lock file, and make it if it is missing. Only its owner may open it: a reader could hold the lock."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    return private.append(path)


def _find_holder(target: Target, path: str) -> str:
    """Describe the process that has locked the file ``path`` on ``target``; empty if it cannot be found."""
    try:
        done = payload_call.call(target, "find-lock-holder", {"path": path}, timeout=60)
    except VirtrootError:
        return ""
    return str(json.loads(done.stdout)) if done.returncode == 0 and done.stdout else ""


def claim(handle: IO[bytes]) -> bool:
    """Lock an open file until it is closed or its process ends; return False if another task has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# A program holds the lock whose input is this task's. When the task ends, for any reason, so does the program.
_HOLD = """
exec 2>&1
# A user who can open the file for reading could hold the lock.
umask 077
mkdir -p "${1%/*}"
chmod 700 "${1%/*}"
path=$1
shift
exec 9> "$path"
if flock "$@" 9; then echo held; exec cat > /dev/null; else echo busy; fi
"""


#: Seconds to wait for a lock that is held for short operations. A process that holds it longer hangs.
PATIENCE = 120

#: Seconds between two attempts to get a lock of this machine.
_POLL = 0.05


@contextmanager
def on(target: Target, path: str, what: str, *, wait: int = 0, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` on ``target``; if another task holds it, wait ``wait`` seconds.

    Raises `Busy` after that. ``what`` names what is locked. Several tasks can hold a lock that is ``shared``.
    """
    how = [*(["--timeout", str(wait)] if wait else ["--nonblock"]), *(["--shared"] if shared else [])]
    with target.holding(["sh", "-ec", _HOLD, "hold", path, *how]) as said:
        if said == "busy":
            raise Busy(what, _find_holder(target, path))
        if said != "held":
            raise VirtrootError(f"cannot lock {what}: {said}", "run this as root, on the machine libvirt is on")
        yield
