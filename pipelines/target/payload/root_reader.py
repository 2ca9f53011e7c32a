"""Reads the files and the directories of a root that a guest may change meanwhile, and follows no link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from . import beneath
from .errors import Refused, TooLarge
from .walk import descend

#: A file of a package manager's database has at most this many bytes.
LARGEST_DATABASE = 64 << 20

#: A tree has at most this many levels of directories.
_DEEPEST = 200

#: To update an access time would unshare a block of a root that shares its blocks with another one.
_NO_ACCESS_TIME = os.O_NOATIME


@dataclass(frozen=True)
class Entry:
    """An entry of the root: its path, its name, its status, and the open directory that it is in."""

    path: str
    name: str
    status: os.stat_result
    directory: int

    @property
    def kind(self) -> str:
        """Return what the entry is: ``directory``, ``link``, ``file`` or ``other``."""
        mode = self.status.st_mode
        kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"), (stat.S_ISREG, "file"))
        return next((name for is_one, name in kinds if is_one(mode)), "other")


class RootReader:
    """The files of a root, found from the root's own descriptor."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, beneath.DIRECTORY)
        self._aliases = {
            found.name: os.readlink(found.name, dir_fd=self._root).strip("/")
            for found in self.entries("")
            if found.kind == "link"
        }

    def real_path(self, path: str) -> str:
        """Return ``path`` as it is in the root: /bin is a link to /usr/bin in a merged-usr system."""
        first, slash, rest = path.strip("/").partition("/")
        return f"{self._aliases[first]}/{rest}" if slash and first in self._aliases else path.strip("/")

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the entries of the directory ``path``, sorted; none if the directory does not exist (any more)."""
        try:
            directory = self._open_directory(path)
        except OSError:
            return
        try:
            for name in sorted(os.listdir(directory)):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    yield Entry(f"{path}/{name}" if path else name, name, status, directory)
        finally:
            os.close(directory)

    def walk(self, path: str) -> Iterator[Entry]:
        """Yield everything below the directory ``path``; nothing if the directory does not exist (any more)."""
        try:
            top = self._open_directory(path)
        except OSError:
            return
        depth = path.count("/") + 1
        try:
            for directory, name, status in descend(top):
                if depth + len(directory.parts) > _DEEPEST:
                    raise _too_deep(path)
                yield Entry("/".join([path, *directory.parts, name]), name, status, directory.handle)
        finally:
            os.close(top)

    def read(self, path: str, largest: int = LARGEST_DATABASE) -> bytes:
        """Return the content of a regular file; empty if ``path`` is not one. Raises `TooLarge`."""
        parent, _, name = path.rpartition("/")
        try:
            directory = self._open_directory(parent)
        except OSError:
            return b""
        try:
            return read_entry(directory, name, largest)
        except TooLarge:
            raise
        except (Refused, OSError):
            return b""
        finally:
            os.close(directory)

    def _open_directory(self, path: str) -> int:
        parts = path.split("/") if path else []
        if len(parts) > _DEEPEST:
            raise _too_deep(path)
        if {"", ".", ".."} & {*parts}:
            # The name of a package in a guest's database becomes a part of a path.
            raise FileNotFoundError(path)
        try:
            return beneath.open_directory(self._root, path, flags=_NO_ACCESS_TIME)
        except Refused as error:
            raise NotADirectoryError(path) from error


def read_entry(directory: int, name: str, largest: int) -> bytes:
    """Return the content of the regular file ``name`` in an open directory; raises `Refused` if it is not one."""
    return beneath.read(directory, name, largest, links=False, flags=_NO_ACCESS_TIME)


def _too_deep(path: str) -> Refused:
    return Refused(f"{path[:60]}...: has more than {_DEEPEST} levels of directories")
