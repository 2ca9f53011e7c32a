"""Measures how many bytes of the disk trees use, and how many of those other trees use too.

Only the file system knows which blocks two files share, for each extent; see fiemap.rst of the kernel. A guest can
change its tree meanwhile: no link is followed, and only regular files are opened.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator, Sequence

from . import beneath
from .walk import descend

_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_LAST, _INLINE, _SHARED = 0x1, 0x200, 0x2000
_EXTENTS = 64

_NEW_MOUNTS = 0x20000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_DETACH = 2

#: The types of ext2, ext3 and ext4, and of tmpfs, on which no two files share blocks.
_WITHOUT_SHARING = (0xEF53, 0x01021994)

#: The clock is read after this many files.
_CLOCK_INTERVAL = 256


class OutOfTime(Exception):
    """Measuring takes longer than the limit."""


def measure(tree: str, deadline: float) -> tuple[int, int]:
    """Return how many bytes of its file system ``tree`` uses, and how many of them another tree uses too.

    Raises `OutOfTime` after ``deadline``, in seconds of `time.monotonic`.
    """
    taken = shared = 0
    seen: set[int] = set()
    can_share = _can_share(tree)
    for number, (directory, name, found) in enumerate(_entries(tree)):
        if number % _CLOCK_INTERVAL == 0 and time.monotonic() > deadline:
            raise OutOfTime
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if found.st_ino in seen:
                continue
            seen.add(found.st_ino)
        taken += found.st_blocks * 512
        if can_share and stat.S_ISREG(found.st_mode) and found.st_blocks:
            shared += min(_shared(directory, name), found.st_blocks * 512)
    return taken, shared


def _can_share(tree: str) -> bool:
    """Return whether files can share blocks on the file system of ``tree``; otherwise none has to be opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    # The type is the first field of struct statfs, which has 120 bytes on x86-64; see statfs(2).
    answer = (ctypes.c_long * 32)()
    return bool(libc.statfs(os.fsencode(tree), answer)) or answer[0] not in _WITHOUT_SHARING


def _entries(tree: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield a directory's descriptor, a name in it and its status, for all of ``tree`` on its own file system."""
    with beneath.opened(tree, beneath.DIRECTORY) as top:
        device = os.fstat(top).st_dev
        for directory, name, found in descend(top, lambda _, __, status: status.st_dev == device):
            if found.st_dev == device:
                yield directory.handle, name, found


def _shared(directory: int, name: str) -> int:
    """Return how many bytes of a regular file's blocks belong to another file too; 0 if the file system cannot say."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return 0
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return 0
        content = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
    except OSError:
        return 0
    finally:
        os.close(handle)
    try:
        return sum(length for length, flags in _extents(content) if flags & _SHARED and not flags & _INLINE)
    except OSError:
        return 0
    finally:
        os.close(content)


def _extents(content: int) -> Iterator[tuple[int, int]]:
    """Yield length and flags of each extent of an open file."""
    start = 0
    while True:
        asked = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _EXTENTS, 0))
        asked += bytes(_EXTENT.size * _EXTENTS)
        fcntl.ioctl(content, _FIEMAP, asked)
        mapped = _HEAD.unpack_from(asked)[3]
        for index in range(mapped):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(asked, _HEAD.size + index * _EXTENT.size)
            yield length, flags
            start = logical + length
            if flags & _LAST:
                return
        if not mapped:
            return


def measure_layers(root: str, below: str, deadline: float) -> tuple[int, int]:
    """Return what `measure` does for a root of two layers, whose lower one is the tree ``below``."""
    _unmount_for_this_process(root)
    lower = measure(below, deadline)[0]
    return measure(root, deadline)[0] + lower, lower


def _unmount_for_this_process(path: str) -> None:
    """Unmount what is mounted at ``path``, in this process's own mount namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE | _RECURSIVE), None):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
    libc.umount2(os.fsencode(path), _DETACH)


def measure_all(roots: Sequence[tuple[str, str]], seconds: float) -> list[tuple[int, int] | None]:
    """Measure each root within ``seconds``; None stands for one that takes longer, or that cannot be read.

    ``roots`` are given with the base tree that they are layered on, which is empty for most.
    """
    return [_measure_or_none(root, below, time.monotonic() + seconds) for root, below in roots]


def _measure_or_none(root: str, below: str, deadline: float) -> tuple[int, int] | None:
    try:
        return measure_layers(root, below, deadline) if below else measure(root, deadline)
    except Exception:
        # A guest wrote the root. No error in it may hide the size of another root.
        return None
