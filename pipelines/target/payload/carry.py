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
import ctypes
import json
import os
import re
import secrets
import stat
import struct
import subprocess  # noqa: TID251 - this runs on libvirt's machine
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple, TypedDict, cast

from pipelines.target.payload.tree import Directory, descend

_CP = ("cp", "--archive", "--reflink=auto", "--no-target-directory", "--")

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_HEAD = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08

#: chown(2) takes it away.
_CAPABILITY = "security.capability"

#: Attributes that are copied. Others are the file system's or the host's, like a label of SELinux.
_COPIED = ("user.", "trusted.", _CAPABILITY, *_ACLS)

#: XFS shows root each ACL a second time.
_ACLS_AGAIN = "trusted.SGI_ACL_"

#: See statx(2): flags of chattr(1) that keep a file from being changed or deleted.
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_ATTRIBUTES_OFFSET, _STATX_BYTES, _NO_FOLLOW = 8, 256, 0x100

#: No more paths with such flags are named.
_MOST_FLAGGED = 100

#: The database of dpkg, what of it is read, and the bytes that it has at most.
_STATUS = "var/lib/dpkg/status"
_FIELD = re.compile(rb"^(Package|Architecture|Multi-Arch): (.*)$", re.MULTILINE)
_WANTED = re.compile(rb"^Status: \S+ ", re.MULTILINE)
_LARGEST_STATUS = 64 << 20

#: Trees do not go down further.
_DEEPEST = 1000

#: Nor has the path of a directory more bytes: cp takes paths of up to 4095, from a directory's descriptor on.
_LONGEST = 3500


class File(TypedDict):
    """A file that is to be written: ``content`` is in base64.

    Its ACL and other attributes are those of the file of that path in the ``old`` or in the ``new`` root.
    """

    path: str
    mode: int
    uid: int
    gid: int
    content: str
    attributes: Literal["old", "new"]


class CopyPlan(TypedDict):
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
    selections: dict[str, str]
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
    return ((handle, name, status) for _, handle, name, status in _entries(root, path))


def _entries(
    root: int, path: str, skipped: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, int, str, os.stat_result]]:
    """Yield the path of each entry in addition to what `walk` yields; ``skipped`` paths are left out with their tree.

    A directory comes before what is in it.
    """
    parent, name = _split(path)
    with directory(root, parent) as handle:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if skipped(path):
            return
        yield path, handle, name, status
    if not stat.S_ISDIR(status.st_mode):
        return
    with directory(root, path) as top:
        for current, name, status in descend(top, lambda here, name, _: not skipped(_joined(path, here, name))):
            if len(current.parts) > _DEEPEST or current.length > _LONGEST:
                way = f"{path}/{'/'.join(current.parts[:100])}"
                raise Refused(f"{way[:60]}...: is nested deeper than cp can copy: {_DEEPEST} directories")
            each = _joined(path, current, name)
            if not skipped(each):
                yield each, current.handle, name, status


def _joined(path: str, directory: Directory, name: str) -> str:
    return "/".join([path, *directory.parts, name])


class Owners(TypedDict):
    """Numbers of ``users`` and ``groups`` that own something, or that an ACL names; bytes of disk of each tree.

    ``systems`` are directories in the trees that hold another system, by what is in them. ``flagged`` are paths that
    chattr(1) made immutable or append-only, which a copy is not.
    """

    users: list[int]
    groups: list[int]
    sizes: dict[str, int]
    systems: list[str]
    flagged: list[str]


def owners(path: str, trees: Sequence[str], other: str = "", foreign: Sequence[str] = ()) -> Owners:
    """Return whose everything is in ``trees`` of the root ``path``, and how much; those that are not there are not.

    A directory on the way to one counts where the root ``other`` has none: it is made like it there. Numbers in
    ``foreign`` trees, and in other systems that are found, are not the root's and do not count.
    """
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = os.open(other, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if other else -1
    users: set[int] = set()
    groups: set[int] = set()
    sizes: dict[str, int] = {}
    systems: list[str] = []
    flagged: list[str] = []
    given = {*foreign}
    # Directories of other systems, and those in them.
    apart: set[str] = set()
    for tree in trees:
        with contextlib.suppress(FileNotFoundError):
            for each, handle, name, status in _entries(root, tree):
                sizes[tree] = sizes.get(tree, 0) + status.st_blocks * 512
                if len(flagged) < _MOST_FLAGGED and _is_flagged(handle, name):
                    flagged.append(each)
                is_in = each.rpartition("/")[0] in apart
                if not (is_in or each in given) and _is_system(handle, name, status):
                    systems.append(each)
                if is_in or each in given or each in systems[-1:]:
                    apart |= {each} if stat.S_ISDIR(status.st_mode) else set()
                    continue
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
    return {
        "users": sorted(users),
        "groups": sorted(groups),
        "sizes": sizes,
        "systems": systems,
        "flagged": flagged,
    }


def _is_system(handle: int, name: str, status: os.stat_result) -> bool:
    """Say whether a directory is the root of another system: root's, with accounts and programs of its own.

    One that belongs to a person was made without privileges, and all in it is that person's.
    """
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
        return False
    try:
        with directory(handle, name) as top, directory(top, "etc") as etc:
            accounts = _status(etc, "passwd")
            has_programs = any(_status(top, each) is not None for each in ("usr", "bin"))
    except (OSError, Refused):
        return False
    return has_programs and accounts is not None and stat.S_ISREG(accounts.st_mode)


def _is_flagged(handle: int, name: str) -> bool:
    """Say whether an entry is immutable or append-only; it is not opened."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        if _LIBC.statx(handle, os.fsencode(name), _NO_FOLLOW, 0, found):
            return False
    except AttributeError:
        return False
    attributes = int.from_bytes(found.raw[_ATTRIBUTES_OFFSET : _ATTRIBUTES_OFFSET + 8], sys.byteorder)
    return bool(attributes & (_IMMUTABLE | _APPEND_ONLY))


_LIBC = ctypes.CDLL(None)


def carry(source: str, destination: str, plan: CopyPlan) -> None:
    """Make ``destination`` have what ``plan`` says, of what ``source`` has.

    ``removals`` are paths that go. ``copies`` are entries, a directory without what is in it, and ``trees`` entries
    with all that is in them but what is ``left``, which are no directories of the source, and trees that are
    ``untouched``: what is called so in the destination they replace, and what that alone has in their directories
    stays. ``whole`` are trees in whose place nothing of the destination's stays, and
    ``empty`` directories, with those in them, that are made where nothing is called so. ``writes`` are files, and
    ``selections`` what dpkg is told of packages, by name.
    ``users`` and ``groups`` say which numbers become which, but not in ``foreign`` trees, whose numbers are another
    system's, and in whose place nothing of the destination's stays. A directory on the way that is missing is made as
    it is in the source.

    In the end everything that was to be copied is compared with the source; raises `Refused` for what is different.
    """
    old_root, new_root = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in (source, destination))
    users, groups = ({int(old): number for old, number in plan[kind].items()} for kind in ("users", "groups"))
    renumber = _renumbering(users, groups) if users or groups else _as_they_are
    left = Left({*plan["left"]}, {*plan["untouched"]}, {*plan["foreign"]})
    stayed: set[str] = set()
    for path in plan["removals"]:
        _remove(new_root, path)
    # Directories before what is in them.
    for path in sorted(plan["copies"]):
        _copy(old_root, new_root, path, renumber)
    for path in plan["trees"]:
        stayed |= _merge(old_root, new_root, path, renumber, left)
    for path in plan["whole"]:
        _replace(old_root, new_root, path, renumber, left)
    for path in plan["empty"]:
        _make_missing(old_root, new_root, path, renumber)
    for file in plan["writes"]:
        _write(old_root, new_root, file, users, groups)
    if plan["selections"]:
        _select(new_root, plan["selections"])
    _finish(old_root, new_root, plan, users, groups, stayed)
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


def _replace(old: int, new: int, path: str, renumber: Renumber, left: "Left") -> None:
    """Copy an entry with all that is in it, in the place of what is called so."""
    parent, name = _split(path)
    with _both(old, new, parent, renumber) as handles:
        if handles is None or _status(handles[0], name) is None:
            return
        origin, place = handles
        _delete(place, name)
        _cp(origin, place, name)
        for _, handle, entry, status in _entries(new, path, left.foreign.__contains__):
            renumber(handle, entry, status)


class Left(NamedTuple):
    """What of the destination's stays in trees that are merged, and which trees are ``foreign``; see `carry`."""

    entries: AbstractSet[str]
    trees: AbstractSet[str]
    foreign: AbstractSet[str]

    def has(self, path: str, *, is_directory: bool) -> bool:
        """Say whether a path stays that is, or is not, a directory of the source."""
        return path in self.trees or (path in self.entries and not is_directory)


def _merge(old: int, new: int, path: str, renumber: Renumber, left: Left) -> set[str]:
    """Copy a tree but for what is ``left``; what the new root alone has in its directories stays.

    Return the paths that the new root's stayed at.
    """
    parent, name = _split(path)
    with _both(old, new, parent, renumber) as handles:
        if handles is None or (found := _status(handles[0], name)) is None:
            return set()
        origin, place = handles
        if left.has(path, is_directory=_is_directory(found)) and _status(place, name) is not None:
            return {path}
        both = _is_directory(found) and _is_directory(_status(place, name))
        if not both or path in left.foreign:
            _replace(old, new, path, renumber, left)
            return set()
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
                    if f"{current}/{entry}" not in aside and f"{current}/{entry}" not in left.foreign:
                        status = os.stat(entry, dir_fd=theirs, follow_symlinks=False)
                        renumber(theirs, entry, status)
                        pending += [f"{current}/{entry}"] if _is_directory(status) else []
        return {*aside}


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
                elif (
                    _is_directory(there)
                    and _is_directory(_status(ours, name))
                    and f"{current}/{name}" not in left.foreign
                ):
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
        wanted = _attributes(ours)
        # Some are there before: those that it had, and the default ACL of the directory that it is in.
        for attribute in {*_attributes(theirs)} - {*wanted}:
            os.removexattr(theirs, attribute)
        os.fchown(theirs, found.st_uid, found.st_gid)
        os.fchmod(theirs, stat.S_IMODE(found.st_mode))
        for attribute, value in wanted.items():
            os.setxattr(theirs, attribute, value)
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
            wanted = _renumbered(entries, users, groups)
            if wanted != entries:
                os.setxattr(f"/proc/self/fd/{handle}/{name}", attribute, _packed(wanted))

    return renumber


def _renumbered(
    entries: Sequence[tuple[int, int, int]], users: Mapping[int, int], groups: Mapping[int, int]
) -> list[tuple[int, int, int]]:
    """Return the lines of an ACL with the numbers that they have in the new root."""
    numbers = {_ACL_USER: users, _ACL_GROUP: groups}
    return [(tag, rights, numbers.get(tag, {}).get(number, number)) for tag, rights, number in entries]


def _packed(entries: Sequence[tuple[int, int, int]]) -> bytes:
    return _ACL_HEAD.pack(2) + b"".join(_ACL_ENTRY.pack(*each) for each in entries)


def _attributes(path: int | str) -> dict[str, bytes]:
    """Return the attributes of an entry that are copied, ACLs and capabilities among them."""
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
        return {
            each: os.getxattr(path, each, follow_symlinks=follow)
            for each in names
            if each.startswith(_COPIED) and not each.startswith(_ACLS_AGAIN)
        }
    except OSError:
        return {}


def _expected(
    handle: int, name: str, status: os.stat_result, users: Mapping[int, int], groups: Mapping[int, int]
) -> dict[str, bytes]:
    """Return the attributes that the copy of an entry has to have."""
    found = _attributes(f"/proc/self/fd/{handle}/{name}")
    acls = _acls(handle, name, status) if found else []
    return {**found, **{each: _packed(_renumbered(entries, users, groups)) for each, entries in acls}}


def _finish(
    old: int,
    new: int,
    plan: CopyPlan,
    users: Mapping[int, int],
    groups: Mapping[int, int],
    stayed: AbstractSet[str],
) -> None:
    """Compare each entry that was to be copied with its copy, and complete what needs all copies to be there.

    Files with several names in different trees get them again, and directories the times that they had. Raises
    `Refused` for a copy that is not as the plan says.
    """
    foreign = {*plan["foreign"]}
    # A file that has several names, by its device and number: the paths of its copies.
    names: dict[tuple[int, int], list[str]] = {}
    directories: list[str] = []
    apart: set[str] = set()
    for tree, deep in (*((path, False) for path in plan["copies"]), *((path, True) for path in _trees(plan))):
        with contextlib.suppress(FileNotFoundError), Parents(new) as parents:
            for path, handle, name, status in _entries(old, tree, stayed.__contains__):
                is_foreign = path in foreign or path.rpartition("/")[0] in apart
                if stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                    apart |= {path} if is_foreign else set()
                elif status.st_nlink > 1:
                    names.setdefault((status.st_dev, status.st_ino), []).append(path)
                maps = ({}, {}) if is_foreign else (users, groups)
                attributes = _expected(handle, name, status, *maps)
                content = os.readlink(name, dir_fd=handle) if stat.S_ISLNK(status.st_mode) else ""
                _compare(parents, path, status, Copied(*maps, attributes, content))
                if not deep:
                    break
    for paths in names.values():
        for path in paths[1:]:
            _link(new, paths[0], path)
    for path in reversed(directories):
        with directory(old, path) as ours, directory(new, path) as theirs:
            status = os.fstat(ours)
            os.utime(theirs, ns=(status.st_atime_ns, status.st_mtime_ns))


def _trees(plan: CopyPlan) -> list[str]:
    return [*plan["trees"], *plan["whole"]]


class Copied(NamedTuple):
    """What a copy has to have otherwise than its source: other numbers, attributes; and where a link leads."""

    users: Mapping[int, int]
    groups: Mapping[int, int]
    attributes: Mapping[str, bytes]
    content: str


class Parents(contextlib.AbstractContextManager["Parents"]):
    """Opens the directories of paths in a root; the last one stays open, since most paths follow others in it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stack = contextlib.ExitStack()
        self._path: str | None = None
        self._handle = -1

    def open(self, path: str) -> int:
        """Return the open directory ``path``; it stays open until the next one is."""
        if path != self._path:
            self._stack.close()
            self._path = None
            self._handle = self._stack.enter_context(directory(self._root, path))
            self._path = path
        return self._handle

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _compare(parents: Parents, path: str, status: os.stat_result, wanted: Copied) -> None:
    """Raise `Refused` where ``path`` is not the copy of an entry of that ``status``."""
    parent, name = _split(path)
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
        same["attributes"] = _attributes(f"/proc/self/fd/{handle}/{name}") == wanted.attributes
    except (FileNotFoundError, Refused) as error:
        raise Refused(f"{path}: was not copied") from error
    if wrong := [what for what, is_same in same.items() if not is_same]:
        raise Refused(f"{path}: the copy differs in {', '.join(wrong)}")


def _link(root: int, path: str, other: str) -> None:
    """Make two paths of a root, which are copies of one file, names of one file again."""
    (parent, name), (above, again) = _split(path), _split(other)
    with directory(root, parent) as here, directory(root, above) as there:
        ours = os.stat(name, dir_fd=here, follow_symlinks=False)
        theirs = os.stat(again, dir_fd=there, follow_symlinks=False)
        alike = (ours.st_uid, ours.st_gid, ours.st_dev) == (theirs.st_uid, theirs.st_gid, theirs.st_dev)
        if ours.st_ino == theirs.st_ino or not alike:
            return
        partial = f".virtroot-{secrets.token_hex(8)}"
        os.link(name, partial, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        os.rename(partial, again, src_dir_fd=there, dst_dir_fd=there)


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


def _write(old: int, new: int, file: File, users: Mapping[int, int], groups: Mapping[int, int]) -> None:
    path = file["path"]
    parent, name = _split(path)
    attributes: dict[str, bytes] = {}
    with (
        contextlib.suppress(FileNotFoundError, Refused),
        directory(old if file["attributes"] == "old" else new, parent) as handle,
    ):
        if (there := _status(handle, name)) is not None and stat.S_ISREG(there.st_mode):
            numbers = (users, groups) if file["attributes"] == "old" else ({}, {})
            attributes = _expected(handle, name, there, *numbers)
    with directory(new, parent, make=True) as handle:
        there = _status(handle, name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise Refused(f"{path}: is a directory in the new root")
        partial = f".virtroot-{secrets.token_hex(8)}"
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=handle)
        with os.fdopen(made, "wb") as opened:
            opened.write(base64.b64decode(file["content"]))
            os.fchown(opened.fileno(), file["uid"], file["gid"])
            for attribute, value in attributes.items():
                os.setxattr(opened.fileno(), attribute, value)
            os.fchmod(opened.fileno(), file["mode"])
        os.rename(partial, name, src_dir_fd=handle, dst_dir_fd=handle)


def _select(root: int, selections: Mapping[str, str]) -> None:
    """Write in dpkg's database what is wanted of packages; those of another architecture are named with it."""
    parent, name = _split(_STATUS)
    with directory(root, parent) as handle:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_STATUS:
                raise Refused(f"{_STATUS}: is no database of dpkg")
            paragraphs = opened.read().split(b"\n\n")
    fields = [dict(_FIELD.findall(paragraph)) for paragraph in paragraphs]
    native = next((each.get(b"Architecture") for each in fields if each.get(b"Package") == b"dpkg"), None)
    for index, each in enumerate(fields):
        package, architecture = each.get(b"Package", b""), each.get(b"Architecture", b"")
        is_foreign = native and architecture not in (native, b"all", b"")
        is_several = is_foreign and each.get(b"Multi-Arch", b"same") == b"same"
        wanted = selections.get(os.fsdecode(package + b":" + architecture if is_several else package))
        if wanted:
            paragraphs[index] = _WANTED.sub(b"Status: %s " % wanted.encode(), paragraphs[index], count=1)
    content = base64.b64encode(b"\n\n".join(paragraphs)).decode()
    rights = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
    _write(root, root, cast("File", {"path": _STATUS, "content": content, "attributes": "new", **rights}), {}, {})


def main(arguments: Sequence[str]) -> None:
    """Act on the command line; see the module's docstring."""
    command, *paths = arguments
    given = json.load(sys.stdin)
    if command == "--owners":
        json.dump(owners(paths[0], given["trees"], paths[1], given["foreign"]), sys.stdout)
    elif command == "--carry":
        carry(paths[0], paths[1], given)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"virtroot: {error}")
