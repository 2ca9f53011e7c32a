"""Opens a path of the user's once, so that later changes of the path have no effect."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_path(path: Path) -> int:
    """Open the absolute ``path`` with O_PATH and return the descriptor. Raises OSError if a component is a link.

    The caller resolves links before. A user who can write to a directory of the path could replace a component by a
    link between a check of the path and its use.
    """
    handle = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return _walk(handle, path.parts[1:])


def open_inside(directory: int, path: str) -> int:
    """Open the file ``path`` below an open directory for reading. Raises OSError if a component is a link."""
    handle = _walk(os.dup(directory), Path(path).parts)
    try:
        # Open the descriptor again, not the path, which could have changed.
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _walk(handle: int, parts: tuple[str, ...]) -> int:
    for part in parts:
        try:
            following = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        finally:
            os.close(handle)
        handle = following
        # With O_PATH and O_NOFOLLOW, a link is opened itself.
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
    return handle


def get_path(handle: int) -> str:
    """Return a path of the open file ``handle``, which is also valid for child processes."""
    return f"/proc/{os.getpid()}/fd/{handle}"
