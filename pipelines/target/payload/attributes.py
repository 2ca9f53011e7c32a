"""Extended attributes, POSIX ACLs and owners of entries, and how they change when user and group numbers change."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_HEAD = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
ACL_USER, ACL_GROUP = 0x02, 0x08

#: chown(2) removes this attribute.
_CAPABILITY = "security.capability"

#: Attributes that a guest's user decides about. Others belong to the file system or the host, like SELinux labels.
_COPIED = ("user.", "trusted.", _CAPABILITY, *_ACLS)

#: XFS shows root each ACL a second time under these names.
_SHOWN_TWICE = "trusted.SGI_ACL_"

#: Flags of chattr(1) that keep a file from being changed or deleted; see statx(2).
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_ATTRIBUTES_OFFSET, _STATX_BYTES, _NO_FOLLOW = 8, 256, 0x100

_LIBC = ctypes.CDLL(None)

#: A line of an ACL: tag, rights and number; see acl(5).
AclLine = tuple[int, int, int]

#: Changes the owners of an entry, given its directory, its name and its status.
Renumber = Callable[[int, str, os.stat_result], None]


def proc_path(handle: int, name: str) -> str:
    """Return a path of an entry of an open directory, for calls that take no descriptor of a directory."""
    return f"/proc/self/fd/{handle}/{name}"


def read_attributes(path: int | str) -> dict[str, bytes]:
    """Return the attributes of an entry that are copied, with ACLs and capabilities; a link is not followed."""
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
        return {
            each: os.getxattr(path, each, follow_symlinks=follow)
            for each in names
            if each.startswith(_COPIED) and not each.startswith(_SHOWN_TWICE)
        }
    except OSError:
        return {}


def read_acls(handle: int, name: str, status: os.stat_result) -> Iterator[tuple[str, list[AclLine]]]:
    """Yield the ACLs of a file or a directory: the name of the attribute, and its lines."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return
    for attribute in _ACLS:
        try:
            packed = os.getxattr(proc_path(handle, name), attribute, follow_symlinks=False)
        except OSError:
            continue
        yield attribute, list(_ACL_ENTRY.iter_unpack(packed[_ACL_HEAD.size :]))


def expected_attributes(
    handle: int, name: str, status: os.stat_result, users: Mapping[int, int], groups: Mapping[int, int]
) -> dict[str, bytes]:
    """Return the attributes that the copy of an entry must have when numbers change as in ``users`` and ``groups``."""
    found = read_attributes(proc_path(handle, name))
    acls = read_acls(handle, name, status) if found else []
    return {**found, **{each: _pack_acl(_renumber_acl(entries, users, groups)) for each, entries in acls}}


def keep_owners(handle: int, name: str, status: os.stat_result) -> None:
    """Do not change the owners of an entry."""


def renumbering(users: Mapping[int, int], groups: Mapping[int, int]) -> Renumber:
    """Return a function that gives an entry its new owners; a file with several names gets them once."""
    if not users and not groups:
        return keep_owners
    seen: set[int] = set()

    def renumber(handle: int, name: str, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                return
            seen.add(status.st_ino)
        user, group = users.get(status.st_uid, status.st_uid), groups.get(status.st_gid, status.st_gid)
        if (user, group) != (status.st_uid, status.st_gid):
            _chown(handle, name, status, user, group)
        for attribute, entries in read_acls(handle, name, status):
            wanted = _renumber_acl(entries, users, groups)
            if wanted != entries:
                os.setxattr(proc_path(handle, name), attribute, _pack_acl(wanted))

    return renumber


def has_protection(handle: int, name: str) -> bool:
    """Say whether an entry is immutable or append-only. The entry is not opened."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        if _LIBC.statx(handle, os.fsencode(name), _NO_FOLLOW, 0, found):
            return False
    except AttributeError:
        return False
    attributes = int.from_bytes(found.raw[_ATTRIBUTES_OFFSET : _ATTRIBUTES_OFFSET + 8], sys.byteorder)
    return bool(attributes & (_IMMUTABLE | _APPEND_ONLY))


def _renumber_acl(entries: Sequence[AclLine], users: Mapping[int, int], groups: Mapping[int, int]) -> list[AclLine]:
    """Return the lines of an ACL with the numbers that they have in the new root."""
    numbers = {ACL_USER: users, ACL_GROUP: groups}
    return [(tag, rights, numbers.get(tag, {}).get(number, number)) for tag, rights, number in entries]


def _pack_acl(entries: Sequence[AclLine]) -> bytes:
    return _ACL_HEAD.pack(2) + b"".join(_ACL_ENTRY.pack(*each) for each in entries)


def _chown(handle: int, name: str, status: os.stat_result, user: int, group: int) -> None:
    """Change the owners of an entry. The kernel removes setuid bits and capabilities then, so they are set again."""
    path = proc_path(handle, name)
    capability = b""
    if stat.S_ISREG(status.st_mode):
        with contextlib.suppress(OSError):
            capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    os.chown(name, user, group, dir_fd=handle, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    if capability:
        os.setxattr(path, _CAPABILITY, capability, follow_symlinks=False)
