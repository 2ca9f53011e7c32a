"""An existing system: the facts of its tree, and the checks whether it can be imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.errors import VirtrootError
from pipelines.origin import fstab
from pipelines.origin.signs import Shown
from pipelines.recipe import generators

#: The distribution of a package manager, by its database in the root.
_DATABASES = {"var/lib/dpkg/status": "debian", "var/lib/pacman/local": "arch"}

#: Processors, by e_machine of an ELF header as `od -tx2` prints it.
_MACHINES = {"003e": "x86_64", "0003": "i386", "00b7": "aarch64", "0028": "arm", "00f3": "riscv64", "0015": "ppc64"}

#: Names at the top of a directory tree of Windows.
_WINDOWS = {"Windows", "Program Files", "Users", "pagefile.sys", "bootmgr"}


@dataclass(frozen=True)
class System:
    """The facts of a tree. Paths are relative to its root.

    ``top`` are the names in its root directory; ``found`` are those of `ASKED` that exist. ``machine`` is e_machine of
    an ELF header; ``release`` has the fields of os-release. ``resume`` are the files of initramfs-tools with a resume
    device, ``fstype`` those that set FSTYPE, ``dracut`` the files of dracut with disks in their kernel command line,
    ``presets`` the presets of mkinitcpio that set its default configuration file and so ignore drop-ins. ``cmdline`` is
    grub's kernel command line, ``crypttab`` the lines of that file, ``units`` the administrator's swap and mount units
    with a device, ``cards`` the files with the name of a network card. ``machine_id`` and ``hostname`` are empty if the
    system has none. ``kernels`` are the versions of the kernels in /boot whose modules exist. ``links`` maps the links
    to kernel and initramfs to their targets. ``signs`` are the signs of `pipelines.origin.signs` found. ``owners`` has
    user, group and mode of the paths of `pipelines.origin.owners`.
    """

    top: frozenset[str]
    found: frozenset[str]
    machine: str
    release: dict[str, str]
    fstab: str
    resume: tuple[str, ...] = ()
    fstype: tuple[str, ...] = ()
    dracut: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    cmdline: str = ""
    crypttab: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    machine_id: str = ""
    hostname: str = ""
    links: dict[str, str] = field(default_factory=dict)
    signs: Shown = field(default_factory=dict)
    owners: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def distro(self) -> str:
        """The supported distribution whose package manager it has; empty if none."""
        return next((distro for path, distro in _DATABASES.items() if path in self.found), "")

    @property
    def name(self) -> str:
        """Its name in os-release."""
        return self.release.get("PRETTY_NAME") or self.release.get("ID") or "an unnamed Linux"


#: The paths whose existence is checked.
ASKED = (
    *_DATABASES,
    "usr/bin",
    "usr/lib/systemd/systemd",
    "lib/systemd/systemd",
    "usr/sbin/sshd",
    "usr/bin/sshd",
    "usr/sbin/qemu-ga",
    "usr/bin/qemu-ga",
    "etc/resolv.conf",
    "vmlinuz",
    "boot/vmlinuz",
)


def refuse(system: System) -> None:
    """Raise VirtrootError with the reason if the system cannot be imported."""
    if system.top & _WINDOWS and "etc" not in system.top:
        raise VirtrootError("the system is Windows", "use a Linux system: only Linux boots from virtiofs")
    if "usr/bin" not in system.found:
        separate = [mount.device for mount in fstab.rewrite(system.fstab).data if mount.point == "/usr"]
        if separate:
            raise VirtrootError(
                f"/usr is missing; it is on another partition, {separate[0]}",
                "mount it in the directory, or pack both into one tarball",
            )
        raise VirtrootError(
            f"not the root of a system: no /usr/bin, only {', '.join(sorted(system.top)[:8]) or 'nothing'}",
            "use the system's /",
        )
    if _MACHINES.get(system.machine) != "x86_64":
        what = _MACHINES.get(system.machine, "an unknown processor")
        raise VirtrootError(f"the system is for {what}", "use a system for x86_64")
    if not system.distro:
        raise VirtrootError(
            f"{system.name} has neither dpkg's nor pacman's packages",
            "use a system based on Debian or Arch",
        )
    if not {"usr/lib/systemd/systemd", "lib/systemd/systemd"} & system.found:
        raise VirtrootError(f"{system.name} has no systemd", "install it in the system first: guests need it")


def refuse_incomplete(system: System, packages: frozenset[str]) -> None:
    """Raise VirtrootError, with the packages to install, if the system has no kernel; containers have none."""
    if system.kernels or {"vmlinuz", "boot/vmlinuz"} & system.found:
        return
    debian = "linux-image-generic" if system.release.get("ID") == "ubuntu" else "linux-image-amd64"
    kernel, default = {"debian": (debian, "initramfs-tools"), "arch": ("linux", "mkinitcpio")}[system.distro]
    known = {name for distro, name in generators.GENERATORS if distro == system.distro}
    missing = [kernel, *([] if known & packages else [default])]
    why = ", like any container" if "container-marks" in system.signs else ""
    raise VirtrootError(
        f"{system.name} has no kernel in /boot{why}",
        f"install in the system first: {', '.join(missing)}",
    )


def choose_generator(system: System, packages: frozenset[str], asked: str) -> str:
    """Return the name of its initramfs generator: the one ``asked`` for, or else the installed one.

    ``none`` is always accepted. Raises VirtrootError for a generator that is unknown or not installed.
    """
    known = {name: row for (distro, name), row in generators.GENERATORS.items() if distro == system.distro}
    there = [
        name for name, row in known.items() if name in packages or (name == "none" and row.placeholder in packages)
    ]
    if asked and asked not in known:
        raise VirtrootError(f"unknown generator {asked} for {system.name}", f"use one of {', '.join(known)}")
    if asked not in {"", "none", *there}:
        raise VirtrootError(
            f"{asked} is not installed in {system.name}", f"use one that is installed: {', '.join(there) or 'none'}"
        )
    if not asked and not there:
        raise VirtrootError(
            f"{system.name} has no supported initramfs generator: {', '.join(known)}",
            "install one in the system first, or use --generator none, which needs a kernel with built-in virtiofs",
        )
    return asked or there[0]
