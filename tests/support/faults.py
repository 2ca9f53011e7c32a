"""Faults to cause on libvirt's machine, and the findings of the doctor about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.libvirt import host_files
from pipelines.pool import place

POOL = "/var/lib/libvirt/filesystems"
WEB, LAYERED = f"{POOL}/root.web", f"{POOL}/root.layered"
WEB_BOOT = place.boot("web")
JSON = "/usr/share/qemu/vhost-user/50-virtiofsd.json"
VIRTIOFSD = "/usr/libexec/virtiofsd"

#: A virtiofsd that prints its version and does not start, with the message of 1.14 without a capability.
REFUSES = """#!/bin/sh
case $1 in --help | --version | --print-capabilities) exec /tmp/virtiofsd "$@" ;; esac
echo "[z ERROR virtiofsd] can't apply the child capabilities: failed to sync capabilities with the kernel" >&2
exit 1
"""

MACHINE, POOLS = "libvirt's machine", "the pool"


@dataclass(frozen=True)
class Case:
    """A command that breaks something in the hypervisor's container, and the findings that report it.

    ``repair`` is the command that repairs it. It is empty where ``--fix`` does that.
    """

    broken: str
    found: frozenset[tuple[str, str]]
    says: str
    repair: str = ""
    needed: bool = True


def case(broken: str, *found: tuple[str, str], says: str, repair: str = "", needed: bool = True) -> Case:
    """Return a fault with its findings as arguments."""
    return Case(broken, frozenset(found), says, repair, needed)


#: How many faults are caused at once, since each run of the doctor takes seconds.
_AT_ONCE = 4

CASES = {
    "no hook": case(f"rm {host_files.HOOK}", (MACHINE, "hook"), says="is missing"),
    "a hook that is not run": case(f"chmod 644 {host_files.HOOK}", (MACHINE, "hook"), says="is not executable"),
    "another version's hook": case(f"echo : >> {host_files.HOOK}", (MACHINE, "hook"), says="is not this version's"),
    "a wrapper that is not run": case(f"chmod 644 {host_files.WRAPPER}", (MACHINE, "wrapper"), says="used by web"),
    "a virtiofsd that does not start": case(
        f"mv {VIRTIOFSD} /tmp/; cat > {VIRTIOFSD} <<'END'\n{REFUSES}END\nchmod 755 {VIRTIOFSD}",
        (MACHINE, "virtiofsd"),
        says="can't apply the child capabilities",
        repair=f"mv /tmp/virtiofsd {VIRTIOFSD}",
    ),
    "nothing describes virtiofsd": case(
        f"mv {JSON} /tmp/", (MACHINE, "vhost-user"), says="Unable to find a satisfying", repair=f"mv /tmp/*.json {JSON}"
    ),
    "no virtiofsd": case(
        f"mv {VIRTIOFSD} /tmp/",
        (MACHINE, "virtiofsd"),
        (MACHINE, "vhost-user"),
        says="missing: guests cannot have their roots",
        repair=f"mv /tmp/virtiofsd {VIRTIOFSD}",
    ),
    "no zstd": case(
        "mv /usr/bin/zstd /tmp/", (MACHINE, "programs"), says="missing: zstd", repair="mv /tmp/zstd /usr/bin/"
    ),
    "no bubblewrap": case(
        "mv /usr/bin/bwrap /tmp/",
        (MACHINE, "bubblewrap"),
        says="missing",
        repair="mv /tmp/bwrap /usr/bin/",
        needed=False,
    ),
    # The share in it is closed by itself: an open one would be a fault of its own.
    "an open pool": case(
        f"chmod 700 {POOL}/share.data; chmod 755 {POOL}", (POOLS, "closed"), says="as root if it is setuid"
    ),
    "a pool that is not started": case(
        "virsh pool-destroy filesystems", (POOLS, "pool"), says="is not active", needed=False
    ),
    "a pool that does not start with libvirt": case(
        "virsh pool-autostart --disable filesystems", (POOLS, "pool"), says="is not started with libvirt", needed=False
    ),
    "a pool that no program runs in": case(
        "mount -o remount,bind,noexec /var/lib/libvirt",
        (POOLS, "mount options"),
        says="noexec: guests run",
        repair="mount -o remount,bind,exec /var/lib/libvirt",
        needed=False,
    ),
    "a pool that is almost full": case(
        f"fallocate --length 3300M {POOL}/fill",
        (POOLS, "room"),
        ("web", "room"),
        ("layered", "room"),
        says="MiB of",
        repair=f"rm {POOL}/fill",
        needed=False,
    ),
    "what killed tasks left": case(
        f"mkdir -p {POOL}/.root.ghost@1234/usr {POOL}/.root.web@5678 {place.BOOT}/.virtroot.other@9abc; "
        f"touch {POOL}/.root.ghost@1234/usr/file",
        (POOLS, "killed tasks"),
        says=".root.ghost@1234",
        needed=False,
    ),
    "a boot directory without a domain": case(
        f"mkdir {place.boot('ghost')}; echo kernel > {place.boot('ghost')}/kernel",
        (POOLS, "boot directories"),
        says=place.boot("ghost"),
        needed=False,
    ),
    "a root without a domain": case(
        f"mkdir {POOL}/root.lost {place.boot('lost')}",
        (POOLS, "roots"),
        says=f"{POOL}/root.lost without a domain",
        repair=f"rmdir {POOL}/root.lost {place.boot('lost')}",
        needed=False,
    ),
    "a root that sshd refuses": case(f"chmod 775 {WEB}", ("web", "root"), says="has mode 0775"),
    "a root that is somebody's": case(
        f"chown 1000 {WEB}", ("web", "root"), says="belongs to user 1000", repair=f"chown 0 {WEB}"
    ),
    "an fstab of disks": case(
        f"echo /dev/sda1 / ext4 defaults 0 1 > {WEB}/etc/fstab.new; cat {WEB}/etc/fstab >> {WEB}/etc/fstab.new; "
        f"cd {WEB}/etc; mv fstab old; mv fstab.new fstab",
        ("web", "fstab"),
        says="/dev/sda1 / ext4",
        repair=f"cd {WEB}/etc; mv old fstab",
    ),
    "an fstab that is a link to the host's": case(
        f"cd {WEB}/etc; mv fstab old; ln -s /etc/fstab fstab",
        ("web", "fstab"),
        says="missing or not readable",
        repair=f"cd {WEB}/etc; mv old fstab",
    ),
    "a kernel that is the host's": case(
        f"ln -sfn /etc/passwd {WEB}/vmlinuz",
        ("web", "kernel"),
        says="leaves the root through a link",
        repair=f"ln -sfn boot/vmlinuz-1 {WEB}/vmlinuz",
    ),
    "a kernel that is newer": case(f"echo new > {WEB}/initrd.img", ("web", "kernel"), says="initrd", needed=False),
    "a kernel that QEMU cannot read": case(
        f"chmod 600 {WEB_BOOT}/kernel; chmod 700 {WEB_BOOT}; chmod 700 {place.BOOT}",
        ("web", "boot directory"),
        ("layered", "boot directory"),
        says="QEMU's user cannot read the kernel",
    ),
    "a /usr that leads out": case(
        f"cd {WEB}; mv usr away; ln -s /etc usr",
        ("web", "usr"),
        says="would be served as one",
        repair=f"cd {WEB}; rm usr; mv away usr",
    ),
    "a share that is gone": case(
        f"mv {POOL}/share.data {POOL}/away",
        ("web", "shares"),
        says="is missing",
        repair=f"mv {POOL}/away {POOL}/share.data",
    ),
    "a share that leads out": case(
        f"cd {POOL}; mv share.data away; ln -s /etc share.data",
        ("web", "shares"),
        says="leads to /etc now",
        repair=f"cd {POOL}; rm share.data; mv away share.data",
    ),
    "layers that are not mounted": case(f"umount {LAYERED}", ("layered", "root"), says="are not mounted", needed=False),
    "a mount without a guest": case(
        f"mkdir -p {POOL}/root.gone /tmp/l; mount -t overlay -o lowerdir=/tmp/l:/usr gone {POOL}/root.gone",
        (POOLS, "overlay mounts"),
        (POOLS, "roots"),
        says="without a guest",
        repair=f"umount {POOL}/root.gone; rmdir {POOL}/root.gone",
        needed=False,
    ),
    "a root that is gone": case(
        f"mv {WEB} {POOL}/away.web", ("web", "root"), says="is missing", repair=f"mv {POOL}/away.web {WEB}"
    ),
}


def group_cases() -> list[tuple[str, ...]]:
    """Return the names of all cases in groups. No two cases of a group have a finding in common."""
    groups: list[list[str]] = []
    for name, each in CASES.items():
        fitting = (group for group in groups if len(group) < _AT_ONCE and not collect_findings(group) & each.found)
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(name)
    return [tuple(group) for group in groups]


def collect_findings(names: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return the findings of the named cases."""
    return frozenset[tuple[str, str]]().union(*(CASES[name].found for name in names))
