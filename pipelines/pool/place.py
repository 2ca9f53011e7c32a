"""The paths on libvirt's host that contain a guest's name, and the rules for names."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from pipelines.artifact.artifact import MANIFEST
from pipelines.errors import VirtrootError
from pipelines.target.payload.names import BOOT_PREFIX, LOCKS, OFF_LOCK, REMOVAL, SWAP

#: The directory that libvirt has for kernels to boot; each guest has a directory of its own in it.
BOOT = "/var/lib/libvirt/boot"

#: Where libvirt, QEMU and virtiofsd write their logs. The log of the serial console is there, too.
LOGS = "/var/log/libvirt/qemu"

#: What tasks write to on libvirt's host in addition to the pool and the locks; libvirt's hooks are in /etc/libvirt.
WRITTEN = ("/var/lib/libvirt", LOGS, "/etc/libvirt")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)

_LEFT = re.compile(rf"\.(?:root\.|{re.escape(BOOT_PREFIX)})(?P<name>{_NAME.pattern})@.*", re.DOTALL)
_OF_A_GUEST = re.compile(rf"(?:root|snapshots|former)\.(?P<name>{_NAME.pattern})")


def check_name(name: str) -> str:
    """Return ``name`` if it is valid as the name of a guest; raises `VirtrootError` otherwise.

    virt-aa-helper refuses /[]{}?^,"* in a domain's name. A name is also part of paths and of libvirt's socket names.
    virsh takes a number for the ID of a domain, and a UUID for its UUID.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.isdigit() or _UUID.fullmatch(name):
        raise VirtrootError(
            f"invalid guest name {name!r}",
            "begin with a letter or digit; then letters, digits and . _ + -, at most 63; not only digits, not a UUID",
        )
    return name


@dataclass(frozen=True)
class Place:
    """The paths of the guest ``name`` whose root is in the directory ``pool``.

    While a task is working, its files have hidden names with ``@``, which no guest's name contains, and with a random
    part, so that they are not mistaken for those of another task.
    """

    pool: str
    name: str
    _part: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def root(self) -> str:
        """The root of the guest."""
        return f"{self.pool}/root.{self.name}"

    @property
    def boot(self) -> str:
        """The directory of the host with the guest's kernel, initramfs and manifest."""
        return boot(self.name)

    @property
    def partial_root(self) -> str:
        """The path of a root before it is published, or after it is withdrawn."""
        return f"{self.pool}/.root.{self.name}@{self._part}"

    @property
    def snapshots(self) -> str:
        """The directory with the guest's snapshots."""
        return f"{self.pool}/snapshots.{self.name}"

    @property
    def previous_roots(self) -> str:
        """The directory with the previous roots of the guest."""
        return f"{self.pool}/former.{self.name}"

    @property
    def prepared(self) -> str:
        """The directory in which a new root for the guest is prepared."""
        return f"{self.partial_root}-upgrade"

    @property
    def swap_journal(self) -> str:
        """The journal of a swap of roots."""
        return f"{self.pool}/.root.{self.name}{SWAP}"

    @property
    def partial_snapshots(self) -> str:
        """The directory with the snapshots after it is withdrawn."""
        return f"{self.partial_root}-snapshots"

    @property
    def partial_previous_roots(self) -> str:
        """The directory with the previous roots after it is withdrawn."""
        return f"{self.partial_root}-formers"

    @property
    def partial_boot(self) -> str:
        """The path of a boot directory before it is published, or after it is withdrawn."""
        return f"{BOOT}/.{BOOT_PREFIX}{self.name}@{self._part}"

    @property
    def journal(self) -> str:
        """The journal of a publication: what it has renamed."""
        return f"{self.pool}/.root.{self.name}@journal"

    @property
    def removal(self) -> str:
        """The journal of a removal: what it has renamed."""
        return f"{self.pool}/.root.{self.name}{REMOVAL}"

    @property
    def lock(self) -> str:
        """The lock file of the guest, locked while a task works on it.

        It is named after the root, whose name does not change when the domain is renamed.
        """
        return lock(self.name)

    @property
    def off_lock(self) -> str:
        """The file that is locked while the guest has to stay off; libvirt's hook refuses to start it meanwhile."""
        return OFF_LOCK.format(self.root.rpartition("/")[2])

    @property
    def leftovers(self) -> tuple[tuple[str, str], ...]:
        """Directories and shell patterns of what killed tasks may have left of this guest."""
        return (self.pool, f".root.{self.name}@*"), (BOOT, f".{BOOT_PREFIX}{self.name}@*")


def of_root(root: str) -> Place:
    """Return the place that has ``root`` as its root; raises `VirtrootError` if ``root`` is not the root of a guest."""
    pool, _, directory = root.rpartition("/")
    name = directory.removeprefix("root.")
    if not pool or name == directory or not _NAME.fullmatch(name):
        raise VirtrootError(f"{root}: not a root made by virtroot", "check the domain: virsh dumpxml")
    return Place(pool, name)


def guest_of_leftover(entry: str) -> str:
    """Return the guest to which the hidden entry ``entry`` of the pool or of `BOOT` belongs, or "" if none."""
    match = _LEFT.fullmatch(entry)
    return match["name"] if match else ""


def guest_of_entry(entry: str) -> str:
    """Return the guest whose root, snapshots or previous roots are named ``entry`` in the pool, or "" if none."""
    match = _OF_A_GUEST.fullmatch(entry)
    return match["name"] if match else ""


def guest_of_boot(entry: str) -> str:
    """Return the guest whose boot directory is named ``entry`` in `BOOT`, or "" if none."""
    name = entry.removeprefix(BOOT_PREFIX)
    return name if name != entry and _NAME.fullmatch(name) else ""


def base_tree(pool: str, key: str) -> str:
    """Return the directory of the base tree ``key`` in the directory ``pool``. It belongs to no guest."""
    return f"{pool}/golden.{key}"


def base_tree_lock(key: str) -> str:
    """Return the lock file of a base tree; tasks that clone a root from the tree hold a shared lock."""
    return f"{LOCKS}/golden-{key}.lock"


def share(pool: str, name: str) -> str:
    """Return the directory of the named share ``name`` in ``pool``. No guest owns it, and removing guests keeps it."""
    return f"{pool}/share.{name}"


def boot(name: str) -> str:
    """Return the boot directory of a guest that was installed as ``name``."""
    return f"{BOOT}/{BOOT_PREFIX}{name}"


def lock(name: str) -> str:
    """Return the file that is locked while a task works on the guest whose root is named ``name``; see `Place`."""
    return f"{LOCKS}/guest-{name}.lock"


def manifest(boot: str) -> str:
    """Return the path of the artifact's manifest in a guest's boot directory."""
    return f"{boot}/{MANIFEST}"


def baseline(boot: str) -> str:
    """Return the path of the baseline as built, in the boot directory of a guest or in a base tree; mode 0600."""
    return f"{boot}/pristine.tar.gz"


def install_inventory(boot: str) -> str:
    """Return the path of the inventory of a root before its first boot after an upgrade; mode 0600."""
    return f"{boot}/arrived.tar.gz"


def keep_list(boot: str) -> str:
    """Return the path of the JSON list of paths that upgrades always keep, in a guest's boot directory."""
    return f"{boot}/keep"


def console_log(name: str) -> str:
    """Return the log file of the guest's serial console, since its last start."""
    # With a hyphen, the console log of a guest "web" would be libvirt's own log of a domain "web-console".
    return f"{LOGS}/{name}@console.log"


def is_boot(path: str) -> bool:
    """Return whether ``path`` is the boot directory of a guest."""
    directory, _, name = path.rpartition("/")
    return directory == BOOT and name.startswith(BOOT_PREFIX)


def is_console_log(path: str) -> bool:
    """Return whether ``path`` is the console log of a guest."""
    return path.rpartition("/")[0] == LOGS and path.endswith(("@console.log", "-console.log"))


def qemu_log(name: str) -> str:
    """Return the path of libvirt's log of the guest's QEMU."""
    return f"{LOGS}/{name}.log"


def virtiofsd_log(name: str, number: int = 0) -> str:
    """Return the log of the virtiofsd that serves the guest's root, or its share ``number``, counted from 1."""
    return f"{LOGS}/{name}-fs{number}-virtiofsd.log"
