"""Copies a guest's own state from one root into another, as a copy plan says.

Guests wrote both roots. Every directory of a path is opened without following a link, a link is copied as a link, and
only directories are entered. cp copies files: it keeps owners, modes, times, links, holes, ACLs and attributes, and
shares blocks if the file system can. Nothing is moved, so the first root stays whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import subprocess  # noqa: TID251 - this runs on libvirt's host
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from . import beneath, copy_check, file_writes
from .attributes import Renumber, proc_path, read_attributes, renumbering
from .copy_plan import CopyPlan
from .errors import Refused
from .tree_entries import DEEPEST, list_entries

_CP = ("cp", "--archive", "--reflink=auto", "--no-target-directory", "--")


def copy_state(source: str, destination: str, plan: CopyPlan) -> None:
    """Change the root ``destination`` as ``plan`` says, with copies from the root ``source``.

    The parts of the plan, in the order in which they are done:

    - ``removals``: paths to delete in the destination
    - ``copies``: entries to copy; a directory without its entries
    - ``trees``: entries to copy with all below them. They replace entries of the same path. Other entries of the
      destination in their directories stay. ``left`` are paths at which the destination keeps its own entry if the
      source has no directory there, ``untouched`` are paths at which it always does
    - ``whole``: trees to copy that replace all of the destination's tree
    - ``empty``: directories to make, with the directories below them, where the destination has nothing
    - ``writes``: files to write
    - ``selections``: selections to set in dpkg's database, by name of the package

    ``users`` and ``groups`` map the numbers of owners to new ones, but not in ``foreign`` trees: these contain another
    system, and replace all of the destination's tree. A missing parent directory is made like that of the source.

    In the end each copy is compared with its source; raises `Refused` for one that differs.
    """
    old_root, new_root = (os.open(path, beneath.DIRECTORY) for path in (source, destination))
    users, groups = ({int(old): number for old, number in plan[kind].items()} for kind in ("users", "groups"))
    renumber = renumbering(users, groups)
    left = _Left({*plan["left"]}, {*plan["untouched"]}, {*plan["foreign"]})
    stayed: set[str] = set()
    for path in plan["removals"]:
        _remove(new_root, path)
    # Sorted, because a directory has to come before its entries.
    for path in sorted(plan["copies"]):
        _copy(old_root, new_root, path, renumber)
    for path in plan["trees"]:
        stayed |= _merge(old_root, new_root, path, renumber, left)
    for path in plan["whole"]:
        _replace(old_root, new_root, path, renumber, left)
    for path in plan["empty"]:
        _make_missing(old_root, new_root, path, renumber)
    for file in plan["writes"]:
        file_writes.write(old_root, new_root, file, users, groups)
    if plan["selections"]:
        file_writes.select(new_root, plan["selections"])
    copy_check.complete(old_root, new_root, plan, users, groups, stayed)
    os.close(old_root)
    os.close(new_root)


def _remove(root: int, path: str) -> None:
    parent, name = beneath.split(path)
    try:
        with beneath.directory(root, parent) as handle:
            _delete(handle, name)
    except FileNotFoundError:
        return


def _delete(parent: int, name: str) -> None:
    found = beneath.status(parent, name)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        # shutil.rmtree recurses, and a guest's tree can be deeper than Python's stack.
        argv = ["rm", "--recursive", "--force", "--one-file-system", "--", proc_path(parent, name)]
        subprocess.run(argv, pass_fds=(parent,), stderr=subprocess.DEVNULL, check=False)
        if beneath.status(parent, name) is not None:
            raise Refused(f"{name}: cannot be deleted completely")
    else:
        os.unlink(name, dir_fd=parent)


@contextlib.contextmanager
def _open_both(old: int, new: int, path: str, renumber: Renumber) -> Iterator[tuple[int, int] | None]:
    """Open the directory ``path`` in both roots, and make missing parts of it in the new root like the old ones.

    Yields None, and makes nothing, if the old root has no such directory.
    """
    with contextlib.ExitStack() as stack:
        try:
            origin = stack.enter_context(beneath.directory(old, path))
        except FileNotFoundError:
            yield None
            return
        made = ""
        for part in path.split("/") if path else []:
            with beneath.directory(old, made) as ours, beneath.directory(new, made) as theirs:
                if beneath.status(theirs, part) is None:
                    _copy_directory(ours, theirs, part, os.stat(part, dir_fd=ours, follow_symlinks=False))
                    renumber(theirs, part, os.stat(part, dir_fd=theirs, follow_symlinks=False))
            made = f"{made}/{part}" if made else part
        with beneath.directory(new, path) as place:
            yield origin, place


def _copy(old: int, new: int, path: str, renumber: Renumber) -> None:
    """Copy an entry; a directory without its entries."""
    parent, name = beneath.split(path)
    with _open_both(old, new, parent, renumber) as handles:
        if handles is None or (found := beneath.status(handles[0], name)) is None:
            return
        origin, place = handles
        if not (beneath.is_directory(found) and beneath.is_directory(beneath.status(place, name))):
            _delete(place, name)
        if beneath.is_directory(found):
            _copy_directory(origin, place, name, found)
        else:
            _cp(origin, place, name)
        renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))


def _replace(old: int, new: int, path: str, renumber: Renumber, left: _Left) -> None:
    """Copy an entry with all below it, and replace the new root's."""
    parent, name = beneath.split(path)
    with _open_both(old, new, parent, renumber) as handles:
        if handles is None or beneath.status(handles[0], name) is None:
            return
        origin, place = handles
        _delete(place, name)
        _cp(origin, place, name)
        for _, handle, entry, status in list_entries(new, path, left.foreign.__contains__):
            renumber(handle, entry, status)


class _Left(NamedTuple):
    """What the destination keeps in trees that are merged, and which trees are ``foreign``; see `copy_state`."""

    entries: AbstractSet[str]
    trees: AbstractSet[str]
    foreign: AbstractSet[str]

    def has(self, path: str, *, is_directory: bool) -> bool:
        """Say whether the destination keeps its own entry at a path, which is a directory of the source or not."""
        return path in self.trees or (path in self.entries and not is_directory)


def _merge(old: int, new: int, path: str, renumber: Renumber, left: _Left) -> set[str]:
    """Copy a tree except what is ``left``. Entries that only the new root has in its directories stay.

    Return the paths at which the new root kept its own entry.
    """
    parent, name = beneath.split(path)
    with _open_both(old, new, parent, renumber) as handles:
        if handles is None or (found := beneath.status(handles[0], name)) is None:
            return set()
        origin, place = handles
        if left.has(path, is_directory=beneath.is_directory(found)) and beneath.status(place, name) is not None:
            return {path}
        both = beneath.is_directory(found) and beneath.is_directory(beneath.status(place, name))
        if not both or path in left.foreign:
            _replace(old, new, path, renumber, left)
            return set()
        aside = _clear(old, new, path, left)
        # With one call of cp, files with several names keep them.
        _cp(origin, place, name)
        for each, hidden in aside.items():
            above, entry = beneath.split(each)
            with beneath.directory(new, above) as handle:
                _delete(handle, entry)
                os.rename(hidden, entry, src_dir_fd=handle, dst_dir_fd=handle)
        renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))
        pending = [path]
        while pending:
            current = pending.pop()
            with beneath.directory(old, current) as ours, beneath.directory(new, current) as theirs:
                for entry in os.listdir(ours):
                    if f"{current}/{entry}" not in aside and f"{current}/{entry}" not in left.foreign:
                        status = os.stat(entry, dir_fd=theirs, follow_symlinks=False)
                        renumber(theirs, entry, status)
                        pending += [f"{current}/{entry}"] if beneath.is_directory(status) else []
        return {*aside}


def _clear(old: int, new: int, path: str, left: _Left) -> dict[str, str]:
    """Delete the entries of the new root that a copy of the tree ``path`` replaces, and hide those that are ``left``.

    Return the hidden names by path.
    """
    aside: dict[str, str] = {}
    pending = [path]
    while pending:
        current = pending.pop()
        if current.count("/") > DEEPEST:
            raise Refused(f"{current[:60]}...: has more than {DEEPEST} levels of directories")
        with beneath.directory(old, current) as ours, beneath.directory(new, current) as theirs:
            for name in os.listdir(ours):
                there = beneath.status(theirs, name)
                if there is None:
                    continue
                if left.has(f"{current}/{name}", is_directory=beneath.is_directory(beneath.status(ours, name))):
                    hidden = f".virtroot-{secrets.token_hex(8)}"
                    os.rename(name, hidden, src_dir_fd=theirs, dst_dir_fd=theirs)
                    aside[f"{current}/{name}"] = hidden
                elif (
                    beneath.is_directory(there)
                    and beneath.is_directory(beneath.status(ours, name))
                    and f"{current}/{name}" not in left.foreign
                ):
                    pending.append(f"{current}/{name}")
                else:
                    _delete(theirs, name)
    return aside


def _make_missing(old: int, new: int, path: str, renumber: Renumber) -> None:
    """Make the directory ``path`` and the directories below it where the new root has nothing at their paths."""
    pending = [path]
    while pending:
        current = pending.pop()
        parent, name = beneath.split(current)
        # Nothing is made behind a link, or behind an entry that is not a directory.
        with contextlib.suppress(Refused), _open_both(old, new, parent, renumber) as handles:
            if handles is None:
                continue
            origin, place = handles
            found, there = beneath.status(origin, name), beneath.status(place, name)
            if found is None or not beneath.is_directory(found):
                continue
            if there is None:
                _copy_directory(origin, place, name, found)
                renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))
            elif not beneath.is_directory(there):
                continue
            with beneath.directory(origin, name) as ours:
                pending += [f"{current}/{each}" for each in os.listdir(ours)]


def _copy_directory(origin: int, place: int, name: str, found: os.stat_result) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=place)
    with beneath.directory(origin, name) as ours, beneath.directory(place, name) as theirs:
        wanted = read_attributes(ours)
        # It can have attributes already: its own, and the default ACL of its parent directory.
        for attribute in {*read_attributes(theirs)} - {*wanted}:
            os.removexattr(theirs, attribute)
        os.fchown(theirs, found.st_uid, found.st_gid)
        os.fchmod(theirs, stat.S_IMODE(found.st_mode))
        for attribute, value in wanted.items():
            os.setxattr(theirs, attribute, value)
        os.utime(theirs, ns=(found.st_atime_ns, found.st_mtime_ns))


def _cp(origin: int, place: int, name: str) -> None:
    argv = [*_CP, proc_path(origin, name), proc_path(place, name)]
    done = subprocess.run(
        argv, pass_fds=(origin, place), stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip("\n").split("\n")
        raise Refused(
            (lines[-1] or "cp gives no reason")
            .replace(f"/proc/self/fd/{place}/", "")
            .replace(f"/proc/self/fd/{origin}/", "")
        )
