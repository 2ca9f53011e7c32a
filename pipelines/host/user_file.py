"""Opening what a user names once, so that it stays what was looked at, whatever its path leads to later."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_path(path: Path) -> int:
    """Return a descriptor of what the absolute ``path`` is, no component of which may be a link.

    Resolve links before. Who can write to a directory on the way could put a link there at any time after that: a path
    that is looked at and then used is two paths. Raises OSError.
    """
    handle = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return _walk(handle, path.parts[1:])


def open_inside(directory: int, path: str) -> int:
    """Return a descriptor, for reading, of the file ``path`` below an open directory; no component may be a link."""
    handle = _walk(os.dup(directory), Path(path).parts)
    try:
        # The descriptor itself is opened again: there is no path any more that could change.
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
        # What is opened of a link is the link itself, which nothing can be read of.
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
    return handle


def named(handle: int) -> str:
    """Return a path to what is open as ``handle``, for programs that this process starts, too."""
    return f"/proc/{os.getpid()}/fd/{handle}"
