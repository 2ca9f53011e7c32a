"""The wrapper of virtiofsd: the names under which libvirt starts it say what the guest needs from the daemon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

#: Its directory. AppArmor's profile of libvirt allows programs below the hooks directory to run; libvirt itself runs
#: only programs there that are named after one of its drivers.
DIRECTORY = "/etc/libvirt/hooks/virtroot"

#: The only name in earlier versions, for guests with overlayfs.
FORMER = f"{DIRECTORY}/virtiofsd"

#: The first kernel that accepts POSIX ACLs from virtiofsd. Earlier ones lack FUSE_SETXATTR_EXT (Linux commit
#: 52a4c95f4d24): virtiofsd before 1.14 refuses them, and the guest does not boot.
_FIRST_WITH_ACLS = (5, 13)


@dataclass(frozen=True)
class Wrapper:
    """What a guest needs from its virtiofsd.

    ``acl``: its kernel accepts POSIX ACLs. ``overlayfs``: the daemon keeps CAP_SYS_ADMIN. ``handles``: the daemon
    refers to files by handles instead of keeping them open.
    """

    acl: bool = False
    overlayfs: bool = False
    handles: bool = False

    @property
    def name(self) -> str:
        """The file name of the wrapper for such a guest."""
        words = [word for word in ("acl", "overlayfs", "handles") if getattr(self, word)]
        return "-".join(["virtiofsd", *(words or ["plain"])])

    @property
    def path(self) -> str:
        """The path of the wrapper in the guest's definition."""
        return f"{DIRECTORY}/{self.name}"


#: What the wrapper prints if it cannot let the daemon use file handles.
NO_HANDLES = "virtroot: no CAP_DAC_READ_SEARCH here"

#: The file names of all wrappers.
NAMES = tuple(sorted(Wrapper(*needs).name for needs in product((False, True), repeat=3)))


def parse(path: str) -> Wrapper | None:
    """Return what the wrapper at ``path`` does for a guest; None for any other program."""
    if path == FORMER:
        return Wrapper(overlayfs=True)
    return next((found for needs in product((False, True), repeat=3) if (found := Wrapper(*needs)).path == path), None)


def has_acl_support(release: str) -> bool:
    """Return whether a kernel with that release (as ``uname -r`` prints it) accepts POSIX ACLs from every virtiofsd."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _FIRST_WITH_ACLS
