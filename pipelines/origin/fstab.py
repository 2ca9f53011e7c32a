"""The fstab of an existing system, rewritten for a root on virtiofs."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from pipelines.text import one_line, split_fields

ROOT_LINE = "root / virtiofs defaults 0 0"

#: File systems that the kernel and systemd provide: they contain no data, and are mounted without a line in fstab.
PROVIDED = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "sysfs", "tmpfs",
    "tracefs",
})  # fmt: skip

#: File systems of other machines and of programs: their content was never on the system's disk.
ELSEWHERE = frozenset({
    "9p", "afs", "ceph", "cifs", "coda", "davfs", "fuse", "gfs2", "glusterfs", "ncpfs", "nfs", "nfs4", "ocfs2",
    "overlay", "smb3", "smbfs", "virtiofs",
})  # fmt: skip

#: Directories that are parts of a system, even on file systems of their own.
_SYSTEM = ("/boot", "/opt", "/usr", "/var")

#: Mount points without data of the system: the root itself, and the firmware's boot loaders.
_REPLACED = {"/", "/boot/efi", "/efi"}


@dataclass(frozen=True)
class Mount:
    """A line of fstab: device, mount point, file system type and options, as written there."""

    device: str
    point: str
    kind: str
    options: str = ""

    @property
    def is_on_disk(self) -> bool:
        """Whether it is a file system on a disk, and not of another machine, a bind mount or an image file."""
        words = set(self.options.split(","))
        file = self.device.startswith("/") and not self.device.startswith("/dev/")
        other = self.kind in ELSEWHERE or self.kind.startswith("fuse.") or "_netdev" in words
        return not (other or file or words & {"bind", "rbind", "loop"})


@dataclass(frozen=True)
class Rewritten:
    """The new fstab; ``swap`` are the removed swap devices, ``data`` the removed mounts with data."""

    text: str
    swap: tuple[str, ...]
    data: tuple[Mount, ...]


def rewrite(old: str) -> Rewritten:
    """Return the fstab with the line of a virtiofs root, and the old lines below it as comments.

    ``old`` is not trusted: a line that Python, systemd or a terminal would see as two becomes one comment.
    """
    lines = [one_line(line) for line in re.split(r"\r?\n", old.rstrip("\r\n")) if line.strip(" \t")]
    mounts = [mount for line in lines if (mount := _parse_mount(line))]
    kept = ["# What this system mounted before it was brought in:", *(f"# {line}" for line in lines)]
    return Rewritten(
        "\n".join([ROOT_LINE, *(kept if lines else ())]) + "\n",
        tuple(mount.device for mount in mounts if mount.kind == "swap"),
        tuple(mount for mount in mounts if _has_data(mount)),
    )


def find_needed(old: str) -> tuple[Mount, ...]:
    """Return the mounts from disks that are parts of the system and that a boot would wait for."""
    parts = (mount for mount in rewrite(old).data if mount.is_on_disk and is_system_part(mount.point))
    return tuple(mount for mount in parts if not {"noauto", "nofail"} & set(mount.options.split(",")))


def is_system_part(point: str) -> bool:
    """Return whether a file system at ``point`` is a part of the system, and not additional data."""
    return point.startswith(tuple(f"{each}/" for each in _SYSTEM)) or point in _SYSTEM


def _parse_mount(line: str) -> Mount | None:
    fields = split_fields(line)
    if line.lstrip(" \t").startswith("#") or len(fields) < 3:
        return None
    device, point, *rest = fields[:4]
    # normpath keeps two leading slashes, as POSIX says; for Linux they are one.
    return Mount(device, re.sub("^//", "/", posixpath.normpath(point)), *rest)


def _has_data(mount: Mount) -> bool:
    removable = mount.point.startswith("/media/")
    holds = mount.kind not in {"swap", *PROVIDED} and mount.point.startswith("/") and not removable
    return holds and mount.point not in _REPLACED
