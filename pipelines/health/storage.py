"""The pool that roots are in: whether it is there, closed to others, on a file system that is fit, and has room."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.health import finding
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import clone_methods, pool
from pipelines.settings import Settings
from pipelines.text import size, split_lines, trim

OF = "the pool"

#: File systems that cannot hold a root.
_NO_OWNERS = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk")

#: File systems that a root is worse off on, and why.
_UNFIT = {
    **dict.fromkeys(_NO_OWNERS, "keeps no owners and modes"),
    **dict.fromkeys(("tmpfs", "ramfs"), "is gone when its machine is off"),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "9p"), "keeps no file capabilities, and the server's own owners"),
}

#: Fewer inodes than a root has entries.
_INODES = 10_000


def examine(hypervisor: Hypervisor, settings: Settings, directory: str | None, seen: Facts) -> list[Finding]:
    """Judge the pool; ``directory`` is where it is, None where there is none yet."""
    if directory is None:
        says = f"there is no pool {settings.pool} yet: the first ./inv install makes it in {settings.pool_path}"
        return [fine(OF, "pool", says)]
    found = seen["directories"].get(directory)
    if found is None or not found["directory"]:
        do = f"mount or restore it; where it held nothing, virsh pool-undefine {settings.pool}: install makes it anew"
        return [fault(OF, "pool", f"{directory} of the pool {settings.pool} is gone", do)]
    info = hypervisor.virsh("pool-info", settings.pool, check=False).text
    return [
        started(info, directory, lambda: start(hypervisor, settings)),
        closed(directory, found, lambda: close(hypervisor, settings, directory)),
        fit(directory, found, btrfs=bool(seen["programs"].get("btrfs"))),
        mounted(directory, found),
        room(directory, found),
    ]


def started(info: str, directory: str, start: finding.Doing) -> Finding:
    """Judge what virsh pool-info says."""
    said = {trim(line.partition(":")[0]): trim(line.partition(":")[2]) for line in split_lines(info)}
    wrong = []
    if said.get("State") != "running":
        wrong.append("is not active")
    if said.get("Autostart") != "yes":
        wrong.append("is not started with libvirt")
    if not wrong:
        return fine(OF, "pool", f"{directory}, active, and started with libvirt")
    do = "--fix does it: virsh pool-start and virsh pool-autostart"
    fix = Fix("start the pool, now and with libvirt", start)
    # Each task starts the pool that it needs.
    return fault(OF, "pool", f"{directory} {' and '.join(wrong)}", do, needed=False, fix=fix)


def start(hypervisor: Hypervisor, settings: Settings) -> None:
    """Start the pool where it is not active, and have libvirt start it."""
    pool.ensure_directory(hypervisor, settings)
    hypervisor.virsh("pool-autostart", settings.pool)


def closed(directory: str, found: Facts, close: finding.Doing) -> Finding:
    """Judge who can get into the pool: a guest may leave programs there that run as root."""
    name = "closed"
    if found["uid"] == 0 and not found["mode"] & 0o077:
        return fine(OF, name, "root alone can enter it")
    who = f"mode {found['mode']:04o}, of user {found['uid']}"
    says = f"{directory} has {who}: others can run what guests leave there, as root where it is setuid"
    if pool.MARK in [name for name, _ in found["entries"]] and found["uid"] == 0:
        do = f"--fix closes it, since virtroot made it: chmod 0700 {directory}"
        return fault(OF, name, says, do, fix=Fix(f"chmod 0700 {directory}", close))
    do = f"unless guests of your own boot from inside it: chown root {directory}; chmod 0700 {directory}"
    return fault(OF, name, says, do, needed=False)


def close(hypervisor: Hypervisor, settings: Settings, directory: str) -> None:
    """Close a pool that virtroot made to everybody but root."""
    if pool.find_directory(hypervisor, settings) != directory:
        raise VirtrootError(f"{directory} is not the pool {settings.pool} any more", "look again")
    script = '[ -f "$1/$2" ] && [ "$(stat --format=%u -- "$1")" = 0 ] && chmod 0700 -- "$1"'
    hypervisor.target.run(["sh", "-ec", script, "close", directory, pool.MARK])


def fit(directory: str, found: Facts, *, btrfs: bool) -> Finding:
    """Judge the type of the pool's file system; which ways of cloning it has is tried when a root is made."""
    name, kind = "file system", found["kind"]
    if kind in _UNFIT:
        do = "install guests into a pool on ext4, xfs or btrfs: --pool and --pool-path"
        return fault(OF, name, f"{directory} is on {kind}, which {_UNFIT[kind]}", do, needed=kind in _NO_OWNERS)
    ways = clone_methods.guess_methods(kind, btrfs=btrfs)
    return fine(OF, name, f"{kind}; by that type, roots can be made by {', '.join(ways)} (tried at install)")


def mounted(directory: str, found: Facts) -> Finding:
    """Judge the options that the pool's file system is mounted with.

    nosuid and nodev do not reach a guest: its own kernel heeds bits and devices. Neither does noexec, but programs of a
    root that are run on the host are refused.
    """
    name, options = "mount options", found["options"]
    if "ro" in options:
        return fault(OF, name, f"{directory} is read-only", "see dmesg for why; mount it read-write")
    if "noexec" in options:
        says = f"{directory} is mounted noexec: guests do not mind, but verify runs programs of a root there"
        return fault(OF, name, says, f"mount -o remount,exec the file system of {directory}", needed=False)
    harmless = [option for option in ("nosuid", "nodev") if option in options]
    return fine(OF, name, f"{' and '.join(harmless)}, which guests do not notice" if harmless else "nothing in the way")


def room(directory: str, found: Facts) -> Finding:
    """Judge how much space is left, and how many inodes."""
    inodes = f", {found['free_inodes']} inodes" if found["inodes"] else ""
    says = f"{size(found['free'])} of {size(found['size'])} free{inodes}"
    few = finding.scarce(found["free_inodes"], found["inodes"], _INODES)
    if few or finding.scarce(found["free"], found["size"]):
        do = "./inv prune, or remove guests and snapshots; or give it a larger disk"
        return fault(OF, "room", f"{directory}: {says}", do, needed=False)
    return fine(OF, "room", says)
