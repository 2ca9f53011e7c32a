"""Exchanges the names of two directories; see renameat2(2), RENAME_EXCHANGE."""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def try_exchange(one: str, other: str) -> int:
    """Exchange the names of two directories in one step; return the number of the error, 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = ctypes.c_int(_AT_FDCWD)
    failed = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return ctypes.get_errno() if failed else 0


def exchange(one: str, other: str) -> None:
    """Exchange the names of two directories and flush that. Neither directory is ever deleted.

    Where the file system cannot do that in one step, three renames do it; `finish` completes them after a crash.
    """
    number = try_exchange(one, other)
    if number in (errno.EINVAL, errno.ENOSYS):
        finish(one, other)
        os.rename(other, _aside(other))
        os.rename(one, other)
        os.rename(_aside(other), one)
    elif number:
        raise OSError(number, os.strerror(number), one, None, other)
    for path in (one, other):
        flush(os.path.dirname(path))


def finish(one: str, other: str) -> None:
    """Give the directory that an interrupted `exchange` put aside the name that is free."""
    aside = _aside(other)
    if os.path.isdir(aside):
        if not os.path.isdir(other):
            os.rename(aside, other)
        elif not os.path.isdir(one):
            os.rename(aside, one)


def flush(directory: str) -> None:
    """Flush the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: str) -> str:
    return f"{path}@aside"
