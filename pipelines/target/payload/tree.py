"""Walks a tree that a guest wrote. A part of the programs that run on libvirt's host, which are sent with it inside."""

import errno
import os
import stat
from collections.abc import Callable, Iterator

#: Times of access, where they are noted, would make what is shared between roots each root's own.
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


class Directory:
    """The directory that a walk is in: an open descriptor, the names on the way to it, and how long that path is.

    ``length`` is in bytes, with a slash behind each name. All of it is another directory's at the next entry.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.parts: list[str] = []
        self.length = 0

    def enter(self, name: str) -> None:
        """Go into the directory ``name``; raises OSError where it is none."""
        self._be(os.open(name, _LIST, dir_fd=self.handle))
        self.parts.append(name)
        self.length += len(os.fsencode(name)) + 1

    def leave(self) -> None:
        """Go back to the directory that this one is in."""
        self._be(os.open("..", _LIST, dir_fd=self.handle))
        self.length -= len(os.fsencode(self.parts.pop())) + 1

    def identity(self) -> tuple[int, int]:
        """Return what no other directory has."""
        status = os.fstat(self.handle)
        return status.st_dev, status.st_ino

    def _be(self, handle: int) -> None:
        os.close(self.handle)
        self.handle = handle


def descend(
    top: int, enter: Callable[["Directory", str, os.stat_result], bool] = lambda *_: True
) -> Iterator[tuple[Directory, str, os.stat_result]]:
    """Yield everything below the open directory ``top``: what directory it is in, its name and its status.

    ``enter`` is asked, with the same three, whether to go into a directory. What vanishes meanwhile is left out; raises
    OSError where a directory is moved meanwhile.

    A tree may be deeper than Python can recurse, a process can have files open, or a path can be long. So one directory
    is open at a time, and the way back is "..", which has to be the directory that was left.
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
                    raise OSError(errno.ESTALE, "a directory was moved while the tree was looked at")
    finally:
        os.close(here.handle)


def _enter_last(here: Directory, names: list[str]) -> bool:
    """Enter the last of ``names`` that still is a directory, having taken it from them; say whether there is one."""
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
