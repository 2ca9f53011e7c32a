"""The pool: whether it exists, is closed to other users, is on a suitable file system and has free space."""

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

#: File systems with drawbacks for a root, and which.
_UNFIT = {
    **dict.fromkeys(_NO_OWNERS, "keeps no owners and modes"),
    **dict.fromkeys(("tmpfs", "ramfs"), "loses its content when the machine is off"),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "9p"), "keeps no file capabilities, and has the server's owners"),
}

#: The least number of free inodes: about the entries of a small root.
_INODES = 10_000


def examine(hypervisor: Hypervisor, settings: Settings, directory: str | None, seen: Facts) -> list[Finding]:
    """Judge the pool; ``directory`` is its directory, or None if there is no pool yet."""
    if directory is None:
        says = f"there is no pool {settings.pool} yet: the first ./inv install makes it in {settings.pool_path}"
        return [fine(OF, "pool", says)]
    found = seen["directories"].get(directory)
    if found is None or not found["directory"]:
        do = f"mount or restore it; if it was empty, virsh pool-undefine {settings.pool}: install makes it again"
        return [fault(OF, "pool", f"{directory} of the pool {settings.pool} is missing", do)]
    info = hypervisor.virsh("pool-info", settings.pool, check=False).text
    return [
        judge_state(info, directory, lambda: start_pool(hypervisor, settings)),
        judge_mode(directory, found, lambda: close_pool(hypervisor, settings, directory)),
        judge_type(directory, found, btrfs=bool(seen["programs"].get("btrfs"))),
        judge_options(directory, found),
        judge_space(directory, found),
    ]


def judge_state(info: str, directory: str, start: finding.Action) -> Finding:
    """Judge the output of virsh pool-info."""
    said = {trim(line.partition(":")[0]): trim(line.partition(":")[2]) for line in split_lines(info)}
    wrong = []
    if said.get("State") != "running":
        wrong.append("is not active")
    if said.get("Autostart") != "yes":
        wrong.append("is not started with libvirt")
    if not wrong:
        return fine(OF, "pool", f"{directory}, active, and started with libvirt")
    do = "run doctor with --fix, or virsh pool-start and virsh pool-autostart"
    fix = Fix("start the pool, now and with libvirt", start)
    # Not needed: each task starts the pool.
    return fault(OF, "pool", f"{directory} {' and '.join(wrong)}", do, needed=False, fix=fix)


def start_pool(hypervisor: Hypervisor, settings: Settings) -> None:
    """Start the pool if it is inactive, and make libvirt start it."""
    pool.ensure_directory(hypervisor, settings)
    hypervisor.virsh("pool-autostart", settings.pool)


def judge_mode(directory: str, found: Facts, close: finding.Action) -> Finding:
    """Judge who can enter the pool: guests can leave programs there that run as root."""
    name = "closed"
    if found["uid"] == 0 and not found["mode"] & 0o077:
        return fine(OF, name, "only root can enter it")
    who = f"mode {found['mode']:04o}, of user {found['uid']}"
    says = f"{directory} has {who}: others can run what guests write there, as root if it is setuid"
    if pool.MARK in [name for name, _ in found["entries"]] and found["uid"] == 0:
        do = f"run doctor with --fix, or chmod 0700 {directory}: virtroot made it"
        return fault(OF, name, says, do, fix=Fix(f"chmod 0700 {directory}", close))
    do = f"chown root {directory}; chmod 0700 {directory}; unless other guests of yours boot from inside it"
    return fault(OF, name, says, do, needed=False)


def close_pool(hypervisor: Hypervisor, settings: Settings, directory: str) -> None:
    """Close a pool that virtroot made to all users except root."""
    if pool.find_directory(hypervisor, settings) != directory:
        raise VirtrootError(f"{directory} is not the pool {settings.pool} any more", "run ./inv doctor again")
    script = '[ -f "$1/$2" ] && [ "$(stat --format=%u -- "$1")" = 0 ] && chmod 0700 -- "$1"'
    hypervisor.target.run(["sh", "-ec", script, "close", directory, pool.MARK])


def judge_type(directory: str, found: Facts, *, btrfs: bool) -> Finding:
    """Judge the type of the pool's file system; which clone methods work is tried when a root is made."""
    name, kind = "file system", found["kind"]
    if kind in _UNFIT:
        do = "install guests into a pool on ext4, xfs or btrfs: --pool and --pool-path"
        return fault(OF, name, f"{directory} is on {kind}, which {_UNFIT[kind]}", do, needed=kind in _NO_OWNERS)
    methods = clone_methods.guess_methods(kind, btrfs=btrfs)
    return fine(OF, name, f"{kind}; by that type, it has the clone methods {', '.join(methods)} (tried at install)")


def judge_options(directory: str, found: Facts) -> Finding:
    """Judge the options that the pool's file system is mounted with.

    nosuid and nodev have no effect in a guest: its own kernel interprets setuid bits and devices. Neither has noexec,
    but programs of a root cannot be run on the host then.
    """
    name, options = "mount options", found["options"]
    if "ro" in options:
        return fault(OF, name, f"{directory} is read-only", "see dmesg for the reason; mount it read-write")
    if "noexec" in options:
        says = f"{directory} is mounted noexec: guests run, but verify runs programs of a root there"
        return fault(OF, name, says, f"mount -o remount,exec the file system of {directory}", needed=False)
    harmless = [option for option in ("nosuid", "nodev") if option in options]
    return fine(OF, name, f"{' and '.join(harmless)}, without effect in guests" if harmless else "nothing in the way")


def judge_space(directory: str, found: Facts) -> Finding:
    """Judge the free space and the free inodes."""
    inodes = f", {found['free_inodes']} inodes" if found["inodes"] else ""
    says = f"{size(found['free'])} of {size(found['size'])} free{inodes}"
    few = finding.is_scarce(found["free_inodes"], found["inodes"], _INODES)
    if few or finding.is_scarce(found["free"], found["size"]):
        do = "run ./inv prune, remove guests or snapshots, or use a larger disk"
        return fault(OF, "room", f"{directory}: {says}", do, needed=False)
    return fine(OF, "room", says)
