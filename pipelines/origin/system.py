"""What an existing system is, by the facts of its tree, and why it cannot come where it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.errors import VirtrootError
from pipelines.origin import fstab
from pipelines.origin.signs import Shown
from pipelines.recipe import generators

#: The distribution of a package manager, by its database in the root.
_DATABASES = {"var/lib/dpkg/status": "debian", "var/lib/pacman/local": "arch"}

#: e_machine of an ELF header, as `od -tx2` prints it.
_MACHINES = {"003e": "x86_64", "0003": "i386", "00b7": "aarch64", "0028": "arm", "00f3": "riscv64", "0015": "ppc64"}

#: What a directory tree of Windows has at its top.
_WINDOWS = {"Windows", "Program Files", "Users", "pagefile.sys", "bootmgr"}


@dataclass(frozen=True)
class System:
    """The facts of a tree; paths are relative to its root.

    ``top`` are the names at its top, ``found`` those of the paths that were asked for that are there. ``machine`` is an
    ELF header's word for the processor, ``release`` the fields of os-release. ``resume`` are the files of
    initramfs-tools that name a resume device, ``fstype`` those that set FSTYPE, ``dracut`` the files of dracut whose
    kernel command line names disks, ``presets`` those of mkinitcpio that name its usual configuration, and so pass over
    what lies beside it. ``cmdline`` is what grub gave the kernel, ``crypttab`` its lines, ``units`` the administrator's
    own swap and mount units that name a device, ``cards`` the files that name a network card.
    ``machine_id`` and ``hostname`` are its own, empty where it has none.
    ``kernels`` are the versions of the kernels in /boot that have their modules; ``links`` maps the links to kernel and
    initramfs to where they lead. ``signs`` are those of `pipelines.origin.signs` that show, and ``owners`` has user,
    group and mode of what `pipelines.origin.owners` asks for.
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
        """Which of the known distributions' package managers it has; empty where none."""
        return next((distro for path, distro in _DATABASES.items() if path in self.found), "")

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.release.get("PRETTY_NAME") or self.release.get("ID") or "a Linux without a name"


#: Paths whose presence is asked for.
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
    """Raise `VirtrootError` where the system cannot be brought in, with the reason."""
    if system.top & _WINDOWS and "etc" not in system.top:
        raise VirtrootError("the system is Windows", "only Linux boots from virtiofs")
    if "usr/bin" not in system.found:
        separate = [mount.device for mount in fstab.rewrite(system.fstab).data if mount.point == "/usr"]
        if separate:
            raise VirtrootError(
                f"its /usr is on {separate[0]}, a partition of its own that is missing",
                "mount it below the directory, or pack both into one tarball",
            )
        raise VirtrootError(
            f"this is no root of a system: it has no /usr/bin, but {', '.join(sorted(system.top)[:8]) or 'nothing'}",
            "name what is the system's /",
        )
    if _MACHINES.get(system.machine) != "x86_64":
        what = _MACHINES.get(system.machine, "a processor that is not known")
        raise VirtrootError(f"the system is for {what}", "only systems for x86_64 can be brought in")
    if not system.distro:
        raise VirtrootError(
            f"{system.name} has neither dpkg's nor pacman's packages",
            "systems of Debian's and Arch's kind can be brought in",
        )
    if not {"usr/lib/systemd/systemd", "lib/systemd/systemd"} & system.found:
        raise VirtrootError(f"{system.name} has no systemd", "install it there first: virtroot's guests are run by it")


def refuse_incomplete(system: System, packages: frozenset[str]) -> None:
    """Raise `VirtrootError` where there is no kernel, with all that has to be installed; containers have none."""
    if system.kernels or {"vmlinuz", "boot/vmlinuz"} & system.found:
        return
    debian = "linux-image-generic" if system.release.get("ID") == "ubuntu" else "linux-image-amd64"
    kernel, default = {"debian": (debian, "initramfs-tools"), "arch": ("linux", "mkinitcpio")}[system.distro]
    known = {name for distro, name in generators.GENERATORS if distro == system.distro}
    missing = [kernel, *([] if known & packages else [default])]
    why = ", as a container has none" if "container-marks" in system.signs else ""
    raise VirtrootError(
        f"{system.name} has no kernel in /boot{why}",
        f"install there first: {', '.join(missing)}",
    )


def generator(system: System, packages: frozenset[str], asked: str) -> str:
    """Return which generator makes its initramfs: the one ``asked`` for, else the one that is installed.

    ``none`` may be asked for whatever is installed. Raises `VirtrootError` for one that it does not have.
    """
    known = {name: row for (distro, name), row in generators.GENERATORS.items() if distro == system.distro}
    there = [
        name for name, row in known.items() if name in packages or (name == "none" and row.placeholder in packages)
    ]
    if asked and asked not in known:
        raise VirtrootError(f"{system.name} knows no generator {asked}", f"use one of {', '.join(known)}")
    if asked not in {"", "none", *there}:
        raise VirtrootError(f"{system.name} has no {asked} installed", f"it has {', '.join(there) or 'none'}")
    if not asked and not there:
        raise VirtrootError(
            f"{system.name} has no initramfs generator that is known: {', '.join(known)}",
            "install one there first, or try --generator none, which needs a kernel with virtiofs built in",
        )
    return asked or there[0]
