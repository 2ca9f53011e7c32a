#!/usr/bin/env python3
"""Carries what is a guest's own from one root into another. Runs beside libvirt, with Python's library and GNU cp.

Guests wrote both roots: every directory on the way to a path is opened following no link, what is a link itself is
copied as one, and nothing but a directory is gone into. Files are copied by cp, which keeps owners, modes, times,
links, holes, ACLs and attributes, and shares blocks where the file system can. Nothing is moved: the first root stays
whole.

Called with ``--owners ROOT OTHER`` or ``--carry FROM TO``, and JSON on standard input: see `owners` and `carry`.
"""

import base64
import contextlib
import json
import os
import secrets
import stat
import struct
import subprocess  # noqa: TID251 - this runs on libvirt's machine
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypedDict

from pipelines.libvirt.tree import descend

_CP = ("cp", "--archive", "--reflink=auto", "--no-target-directory", "--")

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_HEAD = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08

#: chown(2) takes it away.
_CAPABILITY = "security.capability"

#: Trees do not go down further.
_DEEPEST = 1000

#: Nor has the path of a directory more bytes: cp takes paths of up to 4095, from a directory's descriptor on.
_LONGEST = 3500


class File(TypedDict):
    """A file that is to be written: ``content`` is in base64."""

    path: str
    mode: int
    uid: int
    gid: int
    content: str


class Plan(TypedDict):
    """What is to be carried; see `carry`. Numbers are written as JSON has keys."""

    removals: list[str]
    copies: list[str]
    trees: list[str]
    left: list[str]
    untouched: list[str]
    whole: list[str]
    foreign: list[str]
    empty: list[str]
    writes: list[File]
    users: dict[str, int]
    groups: dict[str, int]


class Refused(Exception):
    """A path is not what it has to be."""


@contextlib.contextmanager
def directory(root: int, path: str, *, make: bool = False) -> Iterator[int]:
    """Open the directory ``path`` below ``root``, through no link; with ``make`` those that are missing are made."""
    handle = os.dup(root)
    try:
        for part in path.split("/") if path else []:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=handle)
            following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = following
        yield handle
    except NotADirectoryError as error:
        raise Refused(f"{path}: goes through what is no directory") from error
    finally:
        os.close(handle)


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    if name in ("", ".", "..") or ".." in parent.split("/"):
        raise Refused(f"{path}: is no path in a root")
    return parent, name


def _has(root: int, path: str) -> bool:
    """Say whether a root, if any, has something that is called ``path``."""
    if root < 0:
        return False
    parent, _, name = path.rpartition("/")
    try:
        with directory(root, parent) as handle:
            return _status(handle, name) is not None
    except (FileNotFoundError, Refused):
        return False


def _above(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]


def _status(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def walk(root: int, path: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield the open directory, the name and the status of ``path`` and everything below it."""
    parent, name = _split(path)
    with directory(root, parent) as handle:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        yield handle, name, status
    if not stat.S_ISDIR(status.st_mode):
        return
    with directory(root, path) as top:
        for current, name, status in descend(top):
            if len(current.parts) > _DEEPEST or current.length > _LONGEST:
                way = f"{path}/{'/'.join(current.parts[:100])}"
                raise Refused(f"{way[:60]}...: is nested deeper than cp can copy: {_DEEPEST} directories")
            yield current.handle, name, status


class Owners(TypedDict):
    """Numbers of ``users`` and ``groups`` that own something, or that an ACL names; bytes of disk of each tree."""

    users: list[int]
    groups: list[int]
    sizes: dict[str, int]


def owners(path: str, trees: Sequence[str], other: str = "") -> Owners:
    """Return whose everything is in ``trees`` of the root ``path``, and how much; those that are not there are not.

    A directory on the way to one counts where the root ``other`` has none: it is made like it there.
    """
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = os.open(other, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if other else -1
    users: set[int] = set()
    groups: set[int] = set()
    sizes: dict[str, int] = {}
    for tree in trees:
        with contextlib.suppress(FileNotFoundError):
            for handle, name, status in walk(root, tree):
                sizes[tree] = sizes.get(tree, 0) + status.st_blocks * 512
                users.add(status.st_uid)
                groups.add(status.st_gid)
                for _, entries in _acls(handle, name, status):
                    users |= {number for tag, _, number in entries if tag == _ACL_USER}
                    groups |= {number for tag, _, number in entries if tag == _ACL_GROUP}
            for above in _above(tree):
                if not _has(new, above):
                    with directory(root, above) as handle:
                        status = os.fstat(handle)
                        users.add(status.st_uid)
                        groups.add(status.st_gid)
    for handle in (root, new):
        if handle >= 0:
            os.close(handle)
    return {"users": sorted(users), "groups": sorted(groups), "sizes": sizes}


def carry(source: str, destination: str, plan: Plan) -> None:
    """Make ``destination`` have what ``plan`` says, of what ``source`` has.

    ``removals`` are paths that go. ``copies`` are entries, a directory without what is in it, and ``trees`` entries
    with all that is in them but what is ``left``, which are no directories of the source, and trees that are
    ``untouched``: what is called so in the destination they replace, and what that alone has in their directories
    stays. ``whole`` are trees in whose place nothing of the destination's stays, and
    ``empty`` directories, with those in them, that are made where nothing is called so. ``writes`` are files.
    ``users`` and ``groups`` say which numbers become which, but not in ``foreign`` trees, whose numbers are another
    system's. A directory on the way that is missing is made as it is in the source.
    """
    old_root, new_root = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in (source, destination))
    users, groups = ({int(old): number for old, number in plan[kind].items()} for kind in ("users", "groups"))
    renumber = _renumbering(users, groups) if users or groups else _as_they_are
    foreign, left = {*plan["foreign"]}, Left({*plan["left"]}, {*plan["untouched"]})
    for path in plan["removals"]:
        _remove(new_root, path)
    # Directories before what is in them.
    for path in sorted(plan["copies"]):
        _copy(old_root, new_root, path, renumber)
    for path in plan["trees"]:
        _merge(old_root, new_root, path, _as_they_are if path in foreign else renumber, left)
    for path in plan["whole"]:
        _replace(old_root, new_root, path, _as_they_are if path in foreign else renumber)
    for path in plan["empty"]:
        _make_missing(old_root, new_root, path, renumber)
    for file in plan["writes"]:
        _write(new_root, file)
    os.close(old_root)
    os.close(new_root)


def _remove(root: int, path: str) -> None:
    parent, name = _split(path)
    try:
        with directory(root, parent) as handle:
            _delete(handle, name)
    except FileNotFoundError:
        return


def _delete(parent: int, name: str) -> None:
    found = _status(parent, name)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        # Python's own way recurses, and a guest's tree may be deeper than that goes.
        argv = ["rm", "--recursive", "--force", "--one-file-system", "--", f"/proc/self/fd/{parent}/{name}"]
        subprocess.run(argv, pass_fds=(parent,), stderr=subprocess.DEVNULL, check=False)
        if _status(parent, name) is not None:
            raise Refused(f"{name}: cannot be deleted whole")
    else:
        os.unlink(name, dir_fd=parent)


Renumber = Callable[[int, str, os.stat_result], None]


def _as_they_are(handle: int, name: str, status: os.stat_result) -> None:
    """Leave an entry its owners."""


@contextlib.contextmanager
def _both(old: int, new: int, path: str, renumber: Renumber) -> Iterator[tuple[int, int] | None]:
    """Open the directory ``path`` in both roots; what is missing of it in the new one is made as it is in the old one.

    Where the old root has no such directory there is nothing to open, and nothing is made.
    """
    with contextlib.ExitStack() as stack:
        try:
            origin = stack.enter_context(directory(old, path))
        except FileNotFoundError:
            yield None
            return
        made = ""
        for part in path.split("/") if path else []:
            with directory(old, made) as ours, directory(new, made) as theirs:
                if _status(theirs, part) is None:
                    _copy_directory(ours, theirs, part, os.stat(part, dir_fd=ours, follow_symlinks=False))
                    renumber(theirs, part, os.stat(part, dir_fd=theirs, follow_symlinks=False))
            made = f"{made}/{part}" if made else part
        with directory(new, path) as place:
            yield origin, place


def _is_directory(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _copy(old: int, new: int, path: str, renumber: Renumber) -> None:
    """Copy an entry, a directory without what is in it."""
    parent, name = _split(path)
    with _both(old, new, parent, renumber) as handles:
        if handles is None or (found := _status(handles[0], name)) is None:
            return
        origin, place = handles
        if not (_is_directory(found) and _is_directory(_status(place, name))):
            _delete(place, name)
        if _is_directory(found):
            _copy_directory(origin, place, name, found)
        else:
            _cp(origin, place, name)
        renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))


def _replace(old: int, new: int, path: str, renumber: Renumber) -> None:
    """Copy an entry with all that is in it, in the place of what is called so."""
    parent, name = _split(path)
    with _both(old, new, parent, renumber) as handles:
        if handles is None or _status(handles[0], name) is None:
            return
        origin, place = handles
        _delete(place, name)
        _cp(origin, place, name)
        for handle, entry, status in walk(new, path):
            renumber(handle, entry, status)


class Left(NamedTuple):
    """What of the destination's stays in trees that are merged; see `carry`."""

    entries: AbstractSet[str]
    trees: AbstractSet[str]

    def has(self, path: str, *, is_directory: bool) -> bool:
        """Say whether a path stays that is, or is not, a directory of the source."""
        return path in self.trees or (path in self.entries and not is_directory)


def _merge(old: int, new: int, path: str, renumber: Renumber, left: Left) -> None:
    """Copy a tree but for what is ``left``; what the new root alone has in its directories stays."""
    parent, name = _split(path)
    with _both(old, new, parent, renumber) as handles:
        if handles is None or (found := _status(handles[0], name)) is None:
            return
        origin, place = handles
        if left.has(path, is_directory=_is_directory(found)) and _status(place, name) is not None:
            return
        if not (_is_directory(found) and _is_directory(_status(place, name))):
            _replace(old, new, path, renumber)
            return
        aside = _clear(old, new, path, left)
        # One copy of all: files that have several names keep them.
        _cp(origin, place, name)
        for each, hidden in aside.items():
            above, entry = _split(each)
            with directory(new, above) as handle:
                _delete(handle, entry)
                os.rename(hidden, entry, src_dir_fd=handle, dst_dir_fd=handle)
        renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))
        pending = [path]
        while pending:
            current = pending.pop()
            with directory(old, current) as ours, directory(new, current) as theirs:
                for entry in os.listdir(ours):
                    if f"{current}/{entry}" not in aside:
                        status = os.stat(entry, dir_fd=theirs, follow_symlinks=False)
                        renumber(theirs, entry, status)
                        pending += [f"{current}/{entry}"] if _is_directory(status) else []


def _clear(old: int, new: int, path: str, left: Left) -> dict[str, str]:
    """Delete in a directory of the new root what a copy of the old one's would be in the place of.

    Return the name that what is ``left`` has until then, by its path.
    """
    aside: dict[str, str] = {}
    pending = [path]
    while pending:
        current = pending.pop()
        if current.count("/") > _DEEPEST:
            raise Refused(f"{current[:60]}...: goes down further than {_DEEPEST} directories")
        with directory(old, current) as ours, directory(new, current) as theirs:
            for name in os.listdir(ours):
                there = _status(theirs, name)
                if there is None:
                    continue
                if left.has(f"{current}/{name}", is_directory=_is_directory(_status(ours, name))):
                    hidden = f".virtroot-{secrets.token_hex(8)}"
                    os.rename(name, hidden, src_dir_fd=theirs, dst_dir_fd=theirs)
                    aside[f"{current}/{name}"] = hidden
                elif _is_directory(there) and _is_directory(_status(ours, name)):
                    pending.append(f"{current}/{name}")
                else:
                    _delete(theirs, name)
    return aside


def _make_missing(old: int, new: int, path: str, renumber: Renumber) -> None:
    """Make the directories that ``path`` and those in it are, where the new root has nothing that is called so."""
    pending = [path]
    while pending:
        current = pending.pop()
        parent, name = _split(current)
        # Through a link, or what is no directory, nothing is made.
        with contextlib.suppress(Refused), _both(old, new, parent, renumber) as handles:
            if handles is None:
                continue
            origin, place = handles
            found, there = _status(origin, name), _status(place, name)
            if found is None or not _is_directory(found):
                continue
            if there is None:
                _copy_directory(origin, place, name, found)
                renumber(place, name, os.stat(name, dir_fd=place, follow_symlinks=False))
            elif not _is_directory(there):
                continue
            with directory(origin, name) as ours:
                pending += [f"{current}/{each}" for each in os.listdir(ours)]


def _copy_directory(origin: int, place: int, name: str, found: os.stat_result) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=place)
    with directory(origin, name) as ours, directory(place, name) as theirs:
        os.fchown(theirs, found.st_uid, found.st_gid)
        os.fchmod(theirs, stat.S_IMODE(found.st_mode))
        for attribute in os.listxattr(ours):
            os.setxattr(theirs, attribute, os.getxattr(ours, attribute))
        os.utime(theirs, ns=(found.st_atime_ns, found.st_mtime_ns))


def _cp(origin: int, place: int, name: str) -> None:
    argv = [*_CP, f"/proc/self/fd/{origin}/{name}", f"/proc/self/fd/{place}/{name}"]
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


def _renumbering(users: Mapping[int, int], groups: Mapping[int, int]) -> Renumber:
    """Return what gives an entry its new owners; a file that has several names gets them once."""
    seen: set[int] = set()

    def renumber(handle: int, name: str, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                return
            seen.add(status.st_ino)
        user, group = users.get(status.st_uid, status.st_uid), groups.get(status.st_gid, status.st_gid)
        if (user, group) != (status.st_uid, status.st_gid):
            _chown(handle, name, status, user, group)
        for attribute, entries in _acls(handle, name, status):
            wanted = [
                (tag, rights, {_ACL_USER: users, _ACL_GROUP: groups}.get(tag, {}).get(number, number))
                for tag, rights, number in entries
            ]
            if wanted != entries:
                packed = b"".join(_ACL_ENTRY.pack(*each) for each in wanted)
                os.setxattr(f"/proc/self/fd/{handle}/{name}", attribute, _ACL_HEAD.pack(2) + packed)

    return renumber


def _chown(handle: int, name: str, status: os.stat_result, user: int, group: int) -> None:
    """Change the owners of an entry, and nothing else of it: the kernel would take what gives rights away."""
    path = f"/proc/self/fd/{handle}/{name}"
    capability = b""
    if stat.S_ISREG(status.st_mode):
        with contextlib.suppress(OSError):
            capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    os.chown(name, user, group, dir_fd=handle, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    if capability:
        os.setxattr(path, _CAPABILITY, capability, follow_symlinks=False)


def _acls(handle: int, name: str, status: os.stat_result) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield the ACLs of an entry: tag, rights and number of each line; see acl(5)."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return
    for attribute in _ACLS:
        try:
            packed = os.getxattr(f"/proc/self/fd/{handle}/{name}", attribute, follow_symlinks=False)
        except OSError:
            continue
        yield attribute, list(_ACL_ENTRY.iter_unpack(packed[_ACL_HEAD.size :]))


def _write(root: int, file: File) -> None:
    path = file["path"]
    parent, name = _split(path)
    with directory(root, parent, make=True) as handle:
        there = _status(handle, name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise Refused(f"{path}: is a directory in the new root")
        partial = f".{name}.virtroot-{secrets.token_hex(4)}"
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=handle)
        with os.fdopen(made, "wb") as opened:
            opened.write(base64.b64decode(file["content"]))
            os.fchown(opened.fileno(), file["uid"], file["gid"])
            os.fchmod(opened.fileno(), file["mode"])
        os.rename(partial, name, src_dir_fd=handle, dst_dir_fd=handle)


def main(arguments: Sequence[str]) -> None:
    """Act on the command line; see the module's docstring."""
    command, *paths = arguments
    given = json.load(sys.stdin)
    if command == "--owners":
        json.dump(owners(paths[0], given, *paths[1:]), sys.stdout)
    elif command == "--carry":
        carry(paths[0], paths[1], given)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"virtroot: {error}")
