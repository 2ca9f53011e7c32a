"""Opens and reads files beneath a root. A guest wrote the root, and it can change it at any time.

A guest can turn any path in its root into a link to any file of the host, or into a device. So the kernel opens every
path beneath the root (openat2(2), RESOLVE_BENEATH), what is read must be a regular file, and every size has a limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from .errors import Missing, NotRegular, Refused, TooLarge

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

#: Flags to open a directory to list it or to work in it.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: Flags to open a directory only to find paths beneath it.
PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

#: Files that are read whole, like a host key, have at most this many bytes, unless the caller gives another limit.
LARGEST_READ = 64 << 10


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@contextlib.contextmanager
def opened(path: str, flags: int = PATH) -> Iterator[int]:
    """Open a directory of the host's, such as a guest's root, and close it at the end."""
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


def open_beneath(root: int, path: str, flags: int, *, links: bool = True) -> int:
    """Open ``path`` below the directory descriptor ``root`` and return a descriptor.

    Links are followed while they stay inside, or not at all without ``links``. The kernel refuses absolute links, links
    that climb out, and loops. Raises `Refused`. Needs Linux 5.6.
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if descriptor >= 0:
        return int(descriptor)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        raise Refused("this kernel has no openat2; Linux 5.6 or newer is needed")
    if number == errno.ELOOP and not links:
        raise NotRegular(f"{path}: is a link, or a part of it is")
    reasons = {errno.EXDEV: "leaves the root through a link", errno.ELOOP: "is a loop of links"}
    reason = reasons.get(number, os.strerror(number).lower())
    raise (Missing if number == errno.ENOENT else Refused)(f"{path}: {reason}")


def open_regular(root: int, path: str, largest: int, *, links: bool = True, flags: int = 0) -> int:
    """Open the regular file ``path`` below ``root``, of ``largest`` bytes at most, for reading with further ``flags``.

    The file is checked before it is opened: to open a device or a FIFO that the guest made would already act on it.
    """
    handle = open_beneath(root, path, os.O_PATH, links=links)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(f"{path}: not a regular file")
        if found.st_size > largest:
            raise TooLarge(f"{path}: has {found.st_size} bytes, the limit is {largest}")
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | flags)
    finally:
        os.close(handle)


def read(root: int, path: str, largest: int = LARGEST_READ, *, links: bool = True, flags: int = 0) -> bytes:
    """Return the content of the regular file ``path`` below ``root``; see `open_regular`.

    Raises `TooLarge` also for a file that grows while it is read.
    """
    with os.fdopen(open_regular(root, path, largest, links=links, flags=flags), "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise TooLarge(f"{path}: has more than {largest} bytes")
    return content


def open_directory(root: int, path: str, *, create: bool = False, flags: int = 0) -> int:
    """Open the directory ``path`` below ``root`` for work in it, following no link, with further ``flags``.

    The path can have any length. With ``create`` missing directories are made, mode 0755 less the umask. Raises
    `Refused` if a part of the path is not a directory, FileNotFoundError if it is missing.
    """
    handle = os.dup(root)
    try:
        for part in path.split("/") if path else []:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=handle)
            following = os.open(part, DIRECTORY | os.O_NOFOLLOW | flags, dir_fd=handle)
            os.close(handle)
            handle = following
    except BaseException as error:
        os.close(handle)
        if isinstance(error, NotADirectoryError):
            raise Refused(f"{path}: a part of it is not a directory") from error
        raise
    return handle


@contextlib.contextmanager
def directory(root: int, path: str, *, create: bool = False) -> Iterator[int]:
    """Open a directory as `open_directory` does, and close it at the end."""
    handle = open_directory(root, path, create=create)
    try:
        yield handle
    finally:
        os.close(handle)


def split(path: str) -> tuple[str, str]:
    """Return the directory and the name in a path; raises `Refused` for one that is not a path in a root."""
    parent, _, name = path.rpartition("/")
    if name in ("", ".", "..") or ".." in parent.split("/"):
        raise Refused(f"{path}: not a path in a root")
    return parent, name


def status(parent: int, name: str) -> os.stat_result | None:
    """Return the status of an entry of a directory, of a link itself; None if it does not exist."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_directory(found: os.stat_result | None) -> bool:
    """Say whether the status of an entry is that of a directory."""
    return found is not None and stat.S_ISDIR(found.st_mode)


def create_file(name: str, mode: int, parent: int | None = None) -> BinaryIO:
    """Create the file ``name`` (below the descriptor ``parent``, if given) with exactly ``mode``, for writing.

    Raises FileExistsError if it exists. The umask does not count.
    """
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
    os.fchmod(handle, mode)
    return os.fdopen(handle, "wb")
