"""The fstab of an existing system, rewritten for a root on virtiofs."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from pipelines.text import one_line, split_fields

ROOT_LINE = "root / virtiofs defaults 0 0"

#: What the kernel and systemd provide: it is no data, and nothing is lost without the line.
PROVIDED = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "sysfs", "tmpfs",
    "tracefs",
})  # fmt: skip

#: File systems of other machines, and of programs: the disk of a system never held what is on them.
ELSEWHERE = frozenset({
    "9p", "afs", "ceph", "cifs", "coda", "davfs", "fuse", "gfs2", "glusterfs", "ncpfs", "nfs", "nfs4", "ocfs2",
    "overlay", "smb3", "smbfs", "virtiofs",
})  # fmt: skip

#: Directories that are parts of a system, wherever they lie.
_SYSTEM = ("/boot", "/opt", "/usr", "/var")

#: Mount points whose content is not data of the system: the root itself, and firmware's boot loaders.
_REPLACED = {"/", "/boot/efi", "/efi"}


@dataclass(frozen=True)
class Mount:
    """A line of fstab: what is mounted, where, the type of its file system, and how, in the system's own spelling."""

    device: str
    point: str
    kind: str
    options: str = ""

    @property
    def of_a_disk(self) -> bool:
        """Whether it is a file system on a disk of its own: no other machine's, no other directory, no file of it."""
        words = set(self.options.split(","))
        file = self.device.startswith("/") and not self.device.startswith("/dev/")
        other = self.kind in ELSEWHERE or self.kind.startswith("fuse.") or "_netdev" in words
        return not (other or file or words & {"bind", "rbind", "loop"})


@dataclass(frozen=True)
class Rewritten:
    """The new fstab; ``swap`` are the devices of swap that is gone, ``data`` the mounts that hold something."""

    text: str
    swap: tuple[str, ...]
    data: tuple[Mount, ...]


def rewrite(old: str) -> Rewritten:
    """Return the fstab with the one line of a virtiofs root, the old lines below it as comments.

    A stranger wrote ``old``: a line that Python, systemd or a terminal would take for two stays one comment.
    """
    lines = [one_line(line) for line in re.split(r"\r?\n", old.rstrip("\r\n")) if line.strip(" \t")]
    mounts = [mount for line in lines if (mount := _mount(line))]
    kept = ["# What this system mounted before it was brought in:", *(f"# {line}" for line in lines)]
    return Rewritten(
        "\n".join([ROOT_LINE, *(kept if lines else ())]) + "\n",
        tuple(mount.device for mount in mounts if mount.kind == "swap"),
        tuple(mount for mount in mounts if _holds_data(mount)),
    )


def needed(old: str) -> tuple[Mount, ...]:
    """Return the parts of the system that lie on disks' file systems of their own and that a boot would wait for."""
    parts = (mount for mount in rewrite(old).data if mount.of_a_disk and is_of_the_system(mount.point))
    return tuple(mount for mount in parts if not {"noauto", "nofail"} & set(mount.options.split(",")))


def is_of_the_system(point: str) -> bool:
    """Say whether what is mounted at ``point`` is a part of the system, and no data beside it."""
    return point.startswith(tuple(f"{each}/" for each in _SYSTEM)) or point in _SYSTEM


def _mount(line: str) -> Mount | None:
    fields = split_fields(line)
    if line.lstrip(" \t").startswith("#") or len(fields) < 3:
        return None
    device, point, *rest = fields[:4]
    # Two slashes at the beginning are one to every Linux, and stay two to POSIX.
    return Mount(device, re.sub("^//", "/", posixpath.normpath(point)), *rest)


def _holds_data(mount: Mount) -> bool:
    removable = mount.point.startswith("/media/")
    holds = mount.kind not in {"swap", *PROVIDED} and mount.point.startswith("/") and not removable
    return holds and mount.point not in _REPLACED
