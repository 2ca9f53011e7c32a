"""The wrapper of virtiofsd: the names under which libvirt starts it, which say what a guest needs of the daemon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

#: Where it is. AppArmor's profile of libvirt runs what is below hooks; libvirt itself runs nothing there whose name is
#: not a driver's.
DIRECTORY = "/etc/libvirt/hooks/virtroot"

#: The one name of former versions, for guests with overlayfs.
FORMER = f"{DIRECTORY}/virtiofsd"

#: The first kernel that takes POSIX ACLs from virtiofsd. Older ones lack FUSE_SETXATTR_EXT (commit 52a4c95f4d24 of
#: Linux): daemons before 1.14 refuse them, and the guest does not boot.
_FIRST_WITH_ACLS = (5, 13)


@dataclass(frozen=True)
class Wrapper:
    """What a guest needs of its virtiofsd.

    ``acl`` says that its kernel takes POSIX ACLs, ``overlayfs`` that the daemon keeps CAP_SYS_ADMIN, and ``handles``
    that it refers to files by handles instead of keeping them open.
    """

    acl: bool = False
    overlayfs: bool = False
    handles: bool = False

    @property
    def name(self) -> str:
        """The name of the wrapper for such a guest."""
        words = [word for word in ("acl", "overlayfs", "handles") if getattr(self, word)]
        return "-".join(["virtiofsd", *(words or ["plain"])])

    @property
    def path(self) -> str:
        """The path that the guest's definition has."""
        return f"{DIRECTORY}/{self.name}"


#: What the wrapper says where it cannot let the daemon use file handles.
NO_HANDLES = "virtroot: no CAP_DAC_READ_SEARCH here"

#: All names.
NAMES = tuple(sorted(Wrapper(*needs).name for needs in product((False, True), repeat=3)))


def parse(path: str) -> Wrapper | None:
    """Return what the wrapper at ``path`` gives a guest; None for any other program."""
    if path == FORMER:
        return Wrapper(overlayfs=True)
    return next((found for needs in product((False, True), repeat=3) if (found := Wrapper(*needs)).path == path), None)


def takes_acls(release: str) -> bool:
    """Say whether a kernel of that release, like ``uname -r`` has it, takes POSIX ACLs from every virtiofsd."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _FIRST_WITH_ACLS
