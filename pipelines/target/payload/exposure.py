"""Finds the users of libvirt's host who can enter a directory, or who can replace it by another one."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from typing import Any


def inspect(directories: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each directory whether other users can enter it, and who can write to its parents.

    - ``reached``: other users can enter the directory
    - ``nosuid_nodev``: it is on a mount with these two options
    - ``writers``: pairs of a parent directory and the number of a user who can write to it; -1 for several users

    For a directory that does not exist yet, its nearest existing parent counts.
    """
    return [_inspect(each) for each in directories]


def _inspect(path: str) -> dict[str, Any]:
    lineage, reached, writers = [path], True, []
    while lineage[-1] != "/":
        lineage.append(os.path.dirname(lineage[-1]))
    child = None
    existing = [each for each in lineage if os.path.lexists(each)]
    for each in existing:
        found = os.lstat(each)
        reached = reached and bool(found.st_mode & stat.S_IXOTH)
        if each != path:
            # In a directory with the sticky bit only the owner of a file can rename it.
            is_sticky = found.st_mode & stat.S_ISVTX and child is not None
            if not is_sticky:
                writers += [[each, user] for user in _list_writers(found)]
            elif found.st_mode & 0o022 and child is not None and child.st_uid != 0:
                writers.append([each, child.st_uid])
            if found.st_uid != 0:
                writers.append([each, found.st_uid])
        child = found
    flags = os.statvfs(existing[0]).f_flag
    return {
        "reached": reached,
        "nosuid_nodev": bool(flags & os.ST_NOSUID and flags & os.ST_NODEV),
        "writers": writers,
    }


def _list_writers(found: os.stat_result) -> list[int]:
    """Return the users other than the owner who can write to a directory.

    The members of its group are looked up, because a user's directories often have mode 0775 and a group of that user
    alone.
    """
    if found.st_mode & 0o002:
        return [-1]
    if not found.st_mode & 0o020 or found.st_gid == 0:
        return []
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return [-1]
    members = {each.pw_uid for each in pwd.getpwall() if each.pw_gid == group.gr_gid or each.pw_name in group.gr_mem}
    return sorted(members - {0})
