"""Completes and checks a copy: compares each entry with its source, and restores hard links and times."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from . import beneath
from .attributes import expected_attributes, proc_path, read_attributes
from .copy_plan import CopyPlan
from .errors import Refused
from .tree_entries import list_entries


def complete(
    old: int,
    new: int,
    plan: CopyPlan,
    users: Mapping[int, int],
    groups: Mapping[int, int],
    stayed: AbstractSet[str],
) -> None:
    """Compare each entry of the plan with its copy, then restore what needs all copies to exist.

    Files with several names in different trees get these names again, and directories get their times. ``stayed`` are
    paths at which the new root kept its own entry. Raises `Refused` for a copy that differs from the plan.
    """
    foreign = {*plan["foreign"]}
    # Files with several names: the paths of their copies by device and inode.
    names: dict[tuple[int, int], list[str]] = {}
    directories: list[str] = []
    inside: set[str] = set()
    for tree, deep in (*((path, False) for path in plan["copies"]), *((path, True) for path in _trees(plan))):
        with contextlib.suppress(FileNotFoundError), _Parents(new) as parents:
            for path, handle, name, status in list_entries(old, tree, stayed.__contains__):
                is_foreign = path in foreign or path.rpartition("/")[0] in inside
                if stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                    inside |= {path} if is_foreign else set()
                elif status.st_nlink > 1:
                    names.setdefault((status.st_dev, status.st_ino), []).append(path)
                maps = ({}, {}) if is_foreign else (users, groups)
                attributes = expected_attributes(handle, name, status, *maps)
                content = os.readlink(name, dir_fd=handle) if stat.S_ISLNK(status.st_mode) else ""
                _compare(parents, path, status, Expected(*maps, attributes, content))
                if not deep:
                    break
    for paths in names.values():
        for path in paths[1:]:
            _link(new, paths[0], path)
    for path in reversed(directories):
        with beneath.directory(old, path) as ours, beneath.directory(new, path) as theirs:
            status = os.fstat(ours)
            os.utime(theirs, ns=(status.st_atime_ns, status.st_mtime_ns))


def _trees(plan: CopyPlan) -> list[str]:
    return [*plan["trees"], *plan["whole"]]


class Expected(NamedTuple):
    """How a copy must differ from its source: the numbers of owners, the attributes, and the target of a link."""

    users: Mapping[int, int]
    groups: Mapping[int, int]
    attributes: Mapping[str, bytes]
    content: str


class _Parents(contextlib.AbstractContextManager["_Parents"]):
    """Opens directories of a root. The last one stays open, since the next path is mostly in it too."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stack = contextlib.ExitStack()
        self._path: str | None = None
        self._handle = -1

    def open(self, path: str) -> int:
        """Return the open directory ``path``. It stays open until the next one is opened."""
        if path != self._path:
            self._stack.close()
            self._path = None
            self._handle = self._stack.enter_context(beneath.directory(self._root, path))
            self._path = path
        return self._handle

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _compare(parents: _Parents, path: str, status: os.stat_result, wanted: Expected) -> None:
    """Raise `Refused` if ``path`` is not a copy of an entry of that ``status``."""
    parent, name = beneath.split(path)
    try:
        handle = parents.open(parent)
        there = os.stat(name, dir_fd=handle, follow_symlinks=False)
        same = {
            "kind or mode": status.st_mode == there.st_mode,
            "user": wanted.users.get(status.st_uid, status.st_uid) == there.st_uid,
            "group": wanted.groups.get(status.st_gid, status.st_gid) == there.st_gid,
            "device number": status.st_rdev == there.st_rdev,
        }
        if stat.S_ISREG(status.st_mode):
            same["size"] = status.st_size == there.st_size
        if not stat.S_ISDIR(status.st_mode):
            same["time"] = status.st_mtime_ns == there.st_mtime_ns
        if stat.S_ISLNK(there.st_mode):
            same["target"] = os.readlink(name, dir_fd=handle) == wanted.content
        same["attributes"] = read_attributes(proc_path(handle, name)) == wanted.attributes
    except (FileNotFoundError, Refused) as error:
        raise Refused(f"{path}: not copied") from error
    if wrong := [what for what, is_same in same.items() if not is_same]:
        raise Refused(f"{path}: the copy differs in {', '.join(wrong)}")


def _link(root: int, path: str, other: str) -> None:
    """Make two paths of a root, which are copies of one file, two names of one file again."""
    (parent, name), (above, again) = beneath.split(path), beneath.split(other)
    with beneath.directory(root, parent) as here, beneath.directory(root, above) as there:
        ours = os.stat(name, dir_fd=here, follow_symlinks=False)
        theirs = os.stat(again, dir_fd=there, follow_symlinks=False)
        alike = (ours.st_uid, ours.st_gid, ours.st_dev) == (theirs.st_uid, theirs.st_gid, theirs.st_dev)
        if ours.st_ino == theirs.st_ino or not alike:
            return
        partial = f".virtroot-{secrets.token_hex(8)}"
        os.link(name, partial, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        os.rename(partial, again, src_dir_fd=there, dst_dir_fd=there)
