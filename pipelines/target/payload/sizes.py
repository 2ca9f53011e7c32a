#!/usr/bin/env python3
"""Says how much of the disk trees take, and how much of that other trees have too. Runs beside libvirt.

Blocks that two files share are told by the file system alone, extent by extent; see the kernel's fiemap.rst. A guest
may change its tree meanwhile: no link is followed, and nothing is opened that is no regular file.
"""

import ctypes
import fcntl
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator, Sequence

from pipelines.target.payload.tree import descend

_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_LAST, _INLINE, _SHARED = 0x1, 0x200, 0x2000
_EXTENTS = 64

_NEW_MOUNTS = 0x20000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_DETACH = 2

#: Python looks at the clock after so many files.
_SOME = 256


class OutOfTime(Exception):
    """Counting takes longer than it may."""


def measure(tree: str, deadline: float) -> tuple[int, int]:
    """Return how many bytes of its file system ``tree`` takes, and how many of them are in another tree as well.

    Raises `OutOfTime` after ``deadline``, in the seconds of `time.monotonic`.
    """
    taken = shared = 0
    seen: set[int] = set()
    for number, (directory, name, found) in enumerate(_entries(tree)):
        if number % _SOME == 0 and time.monotonic() > deadline:
            raise OutOfTime
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if found.st_ino in seen:
                continue
            seen.add(found.st_ino)
        taken += found.st_blocks * 512
        if stat.S_ISREG(found.st_mode) and found.st_blocks:
            shared += min(_shared(directory, name), found.st_blocks * 512)
    return taken, shared


def _entries(tree: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield a directory's descriptor, a name in it and what that is, for all of ``tree`` on its own file system."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(top).st_dev
        for directory, name, found in descend(top, lambda _, __, status: status.st_dev == device):
            if found.st_dev == device:
                yield directory.handle, name, found
    finally:
        os.close(top)


def _shared(directory: int, name: str) -> int:
    """Return how many bytes of a regular file's blocks belong to another file as well; 0 where nobody can tell."""
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
    """Return what `measure` does of a root of two layers, whose lower one is the tree ``below``."""
    _unmount_for_us(root)
    lower = measure(below, deadline)[0]
    return measure(root, deadline)[0] + lower, lower


def _unmount_for_us(path: str) -> None:
    """Let this process alone see what ``path`` is below what is mounted there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE | _RECURSIVE), None):
        raise OSError(ctypes.get_errno(), "no mounts of one's own")
    libc.umount2(os.fsencode(path), _DETACH)


def main(arguments: Sequence[str]) -> None:
    """Print a line for each root: two numbers of bytes, or a dash where that takes longer than the first argument.

    Roots are given with the tree that they lie on, which is empty for most.
    """
    limit, *pairs = arguments
    for root, below in zip(pairs[::2], pairs[1::2], strict=True):
        deadline = time.monotonic() + float(limit)
        try:
            counted = measure_layers(root, below, deadline) if below else measure(root, deadline)
            sys.stdout.write(f"{counted[0]} {counted[1]}\n")
        except Exception:
            sys.stdout.write("-\n")


if __name__ == "__main__":
    main(sys.argv[1:])
