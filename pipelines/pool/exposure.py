"""Who else on libvirt's machine reaches a shared directory, or could put another one in its place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.target.target import Target

# Above a directory that is not there yet, what is there counts. In a directory with the sticky bit only a file's owner
# renames it. Many users are the only members of their group, whose directories are 0775 then.
_LOOK = """
import grp, json, os, pwd, stat, sys

def users(found):
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

told = []
for path in sys.argv[1:]:
    lineage, reached, writers = [path], True, []
    while lineage[-1] != "/":
        lineage.append(os.path.dirname(lineage[-1]))
    child = None
    there = [each for each in lineage if os.path.lexists(each)]
    for each in there:
        found = os.lstat(each)
        reached = reached and bool(found.st_mode & stat.S_IXOTH)
        if each != path:
            sticky = found.st_mode & stat.S_ISVTX and child is not None
            if not sticky:
                writers += [[each, user] for user in users(found)]
            elif found.st_mode & 0o022 and child.st_uid != 0:
                writers.append([each, child.st_uid])
            if found.st_uid != 0:
                writers.append([each, found.st_uid])
        child = found
    flags = os.statvfs(there[0]).f_flag
    told.append({"reached": reached, "tame": bool(flags & os.ST_NOSUID and flags & os.ST_NODEV), "writers": writers})
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Exposure:
    """How a directory lies on libvirt's machine.

    Other users can enter a ``reached`` one. A ``tame`` one is on a mount with nosuid and nodev. ``writers`` are the
    directories above it that others than root may write to, each with a user, -1 for several.
    """

    reached: bool
    tame: bool
    writers: tuple[tuple[str, int], ...]

    @property
    def dangerous(self) -> bool:
        """Whether another user of the host could run a setuid program that a guest left there, or use its devices."""
        return self.reached and not self.tame


def look(target: Target, directories: Sequence[str]) -> list[Exposure]:
    """Return how each of ``directories`` lies on ``target``."""
    if not directories:
        return []
    said = json.loads(target.run([target.python, "-I", "-c", _LOOK, *directories]).text)
    return [
        Exposure(each["reached"], each["tame"], tuple((path, user) for path, user in each["writers"])) for each in said
    ]


def refuse_replaceable(directory: str, exposure: Exposure) -> None:
    """Raise `VirtrootError` where others could put a link to any directory of the host in the place of ``directory``.

    Who runs this by sudo may: that user is root already.
    """
    trusted = {0, os.geteuid(), int(os.environ.get("SUDO_UID") or 0)}
    for path, user in exposure.writers:
        if user not in trusted:
            who = "other users" if user == -1 else f"user {user}"
            raise VirtrootError(
                f"{who} may write to {path}, and could replace {directory} by a link to any directory of the host",
                "share a directory below ones that only root writes to, like one below /srv",
            )


#: What to do about a dangerous share.
REMEDY = "on the host, chmod o-x a directory above it, or mount it with nosuid,nodev; or share a name instead"
