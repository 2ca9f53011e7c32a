"""Every path on libvirt's machine that a guest's name decides, and the rules for names."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from pipelines.artifact.artifact import MANIFEST
from pipelines.errors import VirtrootError
from pipelines.target.payload.names import BOOT_PREFIX, LOCKS, OFF_LOCK, REMOVAL, SWAP

#: Where libvirt itself keeps kernels it boots from; each guest has a directory of its own there.
BOOT = "/var/lib/libvirt/boot"

#: Where libvirt, QEMU and virtiofsd write their logs, by name: the serial console's is there beside libvirt's own.
LOGS = "/var/log/libvirt/qemu"

#: What tasks write to on libvirt's machine beside the pool and the locks; libvirt's hooks are below its configuration.
WRITTEN = ("/var/lib/libvirt", LOGS, "/etc/libvirt")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)

_LEFT = re.compile(rf"\.(?:root\.|{re.escape(BOOT_PREFIX)})(?P<name>{_NAME.pattern})@.*", re.DOTALL)
_OF_A_GUEST = re.compile(rf"(?:root|snapshots|former)\.(?P<name>{_NAME.pattern})")


def checked_name(name: str) -> str:
    """Return ``name`` if libvirt, virsh and the file system take it for what it is; raises `VirtrootError`.

    virt-aa-helper refuses /[]{}?^,"* in a domain's name; a name is also part of a path and of libvirt's socket names;
    and virsh takes a number for a domain's id, and a UUID for a UUID.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.isdigit() or _UUID.fullmatch(name):
        raise VirtrootError(
            f"{name!r} is no name for a guest",
            "begin with a letter or digit; then letters, digits, and . _ + -, 63 in all; no bare number, no UUID",
        )
    return name


@dataclass(frozen=True)
class Place:
    """The paths of the guest ``name`` whose root is in the directory ``pool``.

    What is under way has a hidden name with ``@`` in it, which no guest's name has, and with a part of its own, so that
    nobody takes it for another task's.
    """

    pool: str
    name: str
    _part: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def root(self) -> str:
        """The guest's root."""
        return f"{self.pool}/root.{self.name}"

    @property
    def boot(self) -> str:
        """The host-owned directory with the guest's kernel, initramfs and manifest."""
        return boot(self.name)

    @property
    def partial_root(self) -> str:
        """A root before it gets its name, or after it lost it."""
        return f"{self.pool}/.root.{self.name}@{self._part}"

    @property
    def snapshots(self) -> str:
        """The directory with the guest's snapshots."""
        return f"{self.pool}/snapshots.{self.name}"

    @property
    def formers(self) -> str:
        """The directory with the roots that the guest had before its upgrades."""
        return f"{self.pool}/former.{self.name}"

    @property
    def staged(self) -> str:
        """The directory that another root for the guest is made in."""
        return f"{self.partial_root}-upgrade"

    @property
    def switching(self) -> str:
        """The file that says to which root a guest is being switched."""
        return f"{self.pool}/.root.{self.name}{SWAP}"

    @property
    def partial_snapshots(self) -> str:
        """The directory with the snapshots after it lost its name."""
        return f"{self.partial_root}-snapshots"

    @property
    def partial_formers(self) -> str:
        """The directory with the former roots after it lost its name."""
        return f"{self.partial_root}-formers"

    @property
    def partial_boot(self) -> str:
        """A boot directory before it gets its name, or after it lost it."""
        return f"{BOOT}/.{BOOT_PREFIX}{self.name}@{self._part}"

    @property
    def journal(self) -> str:
        """The file that says what a publication under way has renamed."""
        return f"{self.pool}/.root.{self.name}@journal"

    @property
    def removal(self) -> str:
        """The file that says what a removal under way has renamed."""
        return f"{self.pool}/.root.{self.name}{REMOVAL}"

    @property
    def lock(self) -> str:
        """The file that is locked while a task works on the guest.

        It is named by the root, whose name stays the same when the domain is renamed.
        """
        return lock(self.name)

    @property
    def off_lock(self) -> str:
        """The file that is locked while the guest has to stay off; libvirt's hook refuses a start meanwhile."""
        return OFF_LOCK.format(self.root.rpartition("/")[2])

    @property
    def leftovers(self) -> tuple[tuple[str, str], ...]:
        """Directory and shell pattern of what killed tasks may have left of this guest."""
        return (self.pool, f".root.{self.name}@*"), (BOOT, f".{BOOT_PREFIX}{self.name}@*")


def of_root(root: str) -> Place:
    """Return the place that ``root`` is the root of; raises `VirtrootError` for a directory that is no guest's root."""
    pool, _, directory = root.rpartition("/")
    name = directory.removeprefix("root.")
    if not pool or name == directory or not _NAME.fullmatch(name):
        raise VirtrootError(f"{root} is no place for a root of virtroot's", "look at the domain: virsh dumpxml")
    return Place(pool, name)


def left_of(entry: str) -> str:
    """Return the guest of which a task has under way, or left, what is called ``entry`` in the pool or in `BOOT`."""
    match = _LEFT.fullmatch(entry)
    return match["name"] if match else ""


def belongs_to(entry: str) -> str:
    """Return the guest whose root, snapshots or former roots are called ``entry`` in the pool; empty for none."""
    match = _OF_A_GUEST.fullmatch(entry)
    return match["name"] if match else ""


def booted(entry: str) -> str:
    """Return the guest whose boot directory is called ``entry`` in `BOOT`; empty for none."""
    name = entry.removeprefix(BOOT_PREFIX)
    return name if name != entry and _NAME.fullmatch(name) else ""


def golden(pool: str, key: str) -> str:
    """Return the directory of the golden tree ``key`` in the directory ``pool``; that is no guest's either."""
    return f"{pool}/golden.{key}"


def golden_lock(key: str) -> str:
    """Return the file that is locked, shared, while a root is made from a golden tree."""
    return f"{LOCKS}/golden-{key}.lock"


def share(pool: str, name: str) -> str:
    """Return the directory of the share ``name`` in the directory ``pool``; it is no guest's, and outlives all."""
    return f"{pool}/share.{name}"


def boot(name: str) -> str:
    """Return the boot directory of a guest that was installed as ``name``."""
    return f"{BOOT}/{BOOT_PREFIX}{name}"


def lock(name: str) -> str:
    """Return the file that is locked while a task works on the guest whose root is called ``name``; see `Place`."""
    return f"{LOCKS}/guest-{name}.lock"


def manifest(boot: str) -> str:
    """Return where a guest's boot directory keeps the manifest of its artifact."""
    return f"{boot}/{MANIFEST}"


def pristine(boot: str) -> str:
    """Return where a guest's boot directory, or a golden tree's, keeps what its root was; for root alone to read."""
    return f"{boot}/pristine.tar.gz"


def arrived(boot: str) -> str:
    """Return where a guest's boot directory keeps what its root was when the guest got it; for root alone to read."""
    return f"{boot}/arrived.tar.gz"


def kept(boot: str) -> str:
    """Return where a guest's boot directory notes which paths it takes along at upgrades, a line each."""
    return f"{boot}/keep"


def console_log(name: str) -> str:
    """Return the file that keeps what the guest printed on its serial console since its last start."""
    # libvirt's own log of a domain called web-console would be web-console.log.
    return f"{LOGS}/{name}@console.log"


def is_boot(path: str) -> bool:
    """Say whether ``path`` is a guest's boot directory."""
    directory, _, name = path.rpartition("/")
    return directory == BOOT and name.startswith(BOOT_PREFIX)


def is_console_log(path: str) -> bool:
    """Say whether ``path`` is the console log of some guest."""
    return path.rpartition("/")[0] == LOGS and path.endswith(("@console.log", "-console.log"))


def qemu_log(name: str) -> str:
    """Return libvirt's log of the guest's QEMU."""
    return f"{LOGS}/{name}.log"


def virtiofsd_log(name: str, number: int = 0) -> str:
    """Return the log of the virtiofsd that serves the guest's root, or its share of that ``number``, from 1 on."""
    return f"{LOGS}/{name}-fs{number}-virtiofsd.log"
