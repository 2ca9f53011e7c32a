"""Finds the users and groups that own something in the trees of a root, and how large the trees are."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import TypedDict

from . import beneath
from .attributes import ACL_GROUP, ACL_USER, has_protection, read_acls
from .errors import Refused
from .tree_entries import list_entries

#: At most this many immutable or append-only paths are named.
_MOST_FLAGGED = 100


class Owners(TypedDict):
    """Numbers of ``users`` and ``groups`` that own something or that an ACL names; ``sizes`` of trees in bytes of disk.

    ``systems`` are directories in the trees that contain another system. ``flagged`` are paths that chattr(1) made
    immutable or append-only; a copy is neither.
    """

    users: list[int]
    groups: list[int]
    sizes: dict[str, int]
    systems: list[str]
    flagged: list[str]


def find_owners(path: str, trees: Sequence[str], other: str = "", foreign: Sequence[str] = ()) -> Owners:
    """Return the owners of all entries in ``trees`` of the root ``path``. Trees that do not exist are left out.

    A parent directory of a tree counts if the root ``other`` lacks it, since a copy makes it there. Numbers in
    ``foreign`` trees and in other systems that are found are those of another system, and do not count.
    """
    root = os.open(path, beneath.DIRECTORY)
    new = os.open(other, beneath.DIRECTORY) if other else -1
    users: set[int] = set()
    groups: set[int] = set()
    sizes: dict[str, int] = {}
    systems: list[str] = []
    flagged: list[str] = []
    given = {*foreign}
    # Directories of other systems, and directories in them.
    inside: set[str] = set()
    for tree in trees:
        with contextlib.suppress(FileNotFoundError):
            for each, handle, name, status in list_entries(root, tree):
                sizes[tree] = sizes.get(tree, 0) + status.st_blocks * 512
                if len(flagged) < _MOST_FLAGGED and has_protection(handle, name):
                    flagged.append(each)
                is_in = each.rpartition("/")[0] in inside
                if not (is_in or each in given) and _is_system(handle, name, status):
                    systems.append(each)
                if is_in or each in given or each in systems[-1:]:
                    inside |= {each} if stat.S_ISDIR(status.st_mode) else set()
                    continue
                users.add(status.st_uid)
                groups.add(status.st_gid)
                for _, entries in read_acls(handle, name, status):
                    users |= {number for tag, _, number in entries if tag == ACL_USER}
                    groups |= {number for tag, _, number in entries if tag == ACL_GROUP}
            for above in _parents(tree):
                if not _exists(new, above):
                    with beneath.directory(root, above) as handle:
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
    """Say whether a directory is the root of another system: it belongs to root and has accounts and programs.

    A system in a directory of another user was made without privileges, so all of it belongs to that user.
    """
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
        return False
    try:
        with beneath.directory(handle, name) as top, beneath.directory(top, "etc") as etc:
            accounts = beneath.status(etc, "passwd")
            has_programs = any(beneath.status(top, each) is not None for each in ("usr", "bin"))
    except (OSError, Refused):
        return False
    return has_programs and accounts is not None and stat.S_ISREG(accounts.st_mode)


def _exists(root: int, path: str) -> bool:
    """Say whether a root, if there is one, has an entry at ``path``."""
    if root < 0:
        return False
    parent, _, name = path.rpartition("/")
    try:
        with beneath.directory(root, parent) as handle:
            return beneath.status(handle, name) is not None
    except (FileNotFoundError, Refused):
        return False


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]
