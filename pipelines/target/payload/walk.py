"""Walks a tree that a guest wrote."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

#: To update an access time would unshare a block of a root that shares its blocks with another one.
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


class Directory:
    """The directory that a walk is in: an open descriptor, the names of the path to it, and the length of that path.

    ``length`` is in bytes, with a slash after each name. The walk changes the object with each entry.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.parts: list[str] = []
        self.length = 0

    def enter(self, name: str) -> None:
        """Go into the directory ``name``; raises OSError if it is not a directory."""
        self._replace(os.open(name, _LIST, dir_fd=self.handle))
        self.parts.append(name)
        self.length += len(os.fsencode(name)) + 1

    def leave(self) -> None:
        """Go back to the parent directory."""
        self._replace(os.open("..", _LIST, dir_fd=self.handle))
        self.length -= len(os.fsencode(self.parts.pop())) + 1

    def identity(self) -> tuple[int, int]:
        """Return the device and the inode."""
        status = os.fstat(self.handle)
        return status.st_dev, status.st_ino

    def _replace(self, handle: int) -> None:
        os.close(self.handle)
        self.handle = handle


def descend(
    top: int, enter: Callable[[Directory, str, os.stat_result], bool] = lambda *_: True
) -> Iterator[tuple[Directory, str, os.stat_result]]:
    """Yield each entry below the open directory ``top``: its directory, its name and its status.

    The entries of a directory come in the order of their names, before those of its subdirectories. ``enter`` is called
    with the same three values and says whether to enter a directory. Entries that vanish during the walk are left out.
    Raises OSError if a directory is moved during the walk.

    A tree can be deeper than Python can recurse, than a process can have files open, or than a path can be long. So one
    directory is open at a time, and the way back is "..", which has to be the directory that was left.
    """
    here = Directory(os.dup(top))
    levels: list[tuple[tuple[int, int], list[str]]] = []
    try:
        while True:
            below = []
            for name in sorted(os.listdir(here.handle)):
                try:
                    status = os.stat(name, dir_fd=here.handle, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield here, name, status
                if stat.S_ISDIR(status.st_mode) and enter(here, name, status):
                    below.append(name)
            levels.append((here.identity(), below))
            while not _enter_last(here, levels[-1][1]):
                levels.pop()
                if not levels:
                    return
                here.leave()
                if here.identity() != levels[-1][0]:
                    raise OSError(errno.ESTALE, "a directory was moved while the tree was read")
    finally:
        os.close(here.handle)


def _enter_last(here: Directory, names: list[str]) -> bool:
    """Enter the last of ``names`` that is still a directory, and remove it from them; say whether there was one."""
    while names:
        try:
            here.enter(names.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            return True
    return False
