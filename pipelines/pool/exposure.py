"""Which users of libvirt's host can enter a shared directory, or can replace it by another one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.target.target import Target

# For a directory that does not exist yet, its nearest existing parent counts. In a directory with the sticky bit only
# the owner of a file can rename it. A user whose group has no other members often has directories of mode 0775, so the
# members of the group are looked up.
_INSPECT = """
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

results = []
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
    nosuid_nodev = bool(flags & os.ST_NOSUID and flags & os.ST_NODEV)
    results.append({"reached": reached, "nosuid_nodev": nosuid_nodev, "writers": writers})
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Exposure:
    """Which users of libvirt's host have access to a directory.

    ``reached``: other users can enter it. ``nosuid_nodev``: it is on a mount with these two options. ``writers``: the
    directories above it that users other than root can write to, each with a user ID, or -1 for several users.
    """

    reached: bool
    nosuid_nodev: bool
    writers: tuple[tuple[str, int], ...]

    @property
    def is_dangerous(self) -> bool:
        """Whether another user of the host could run a setuid program that a guest wrote there, or use its devices."""
        return self.reached and not self.nosuid_nodev


def inspect(target: Target, directories: Sequence[str]) -> list[Exposure]:
    """Return the exposure of each of ``directories`` on ``target``."""
    if not directories:
        return []
    results = json.loads(target.run([target.python, "-I", "-c", _INSPECT, *directories]).text)
    return [
        Exposure(each["reached"], each["nosuid_nodev"], tuple((path, user) for path, user in each["writers"]))
        for each in results
    ]


def refuse_replaceable(directory: str, exposure: Exposure) -> None:
    """Raise `VirtrootError` if other users could replace ``directory`` by a link to any directory of the host.

    The user who runs this task by sudo is trusted: that user is root already.
    """
    trusted = {0, os.geteuid(), int(os.environ.get("SUDO_UID") or 0)}
    for path, user in exposure.writers:
        if user not in trusted:
            who = "other users" if user == -1 else f"user {user}"
            raise VirtrootError(
                f"{who} may write to {path}, and could replace {directory} by a link to any directory of the host",
                "share a directory whose parents only root can write to, for example one below /srv",
            )


#: The hint for a dangerous share.
REMEDY = "run chmod o-x on a directory above it on the host, mount it with nosuid,nodev, or use a named share"
