"""What both a tree and a running guest have to show."""

from __future__ import annotations

import shlex

from testinfra.host import Host

from pipelines.artifact.difference import compare
from pipelines.artifact.manifest import Manifest, Package
from pipelines.guest.guest import Guest
from pipelines.recipe.distros import DISTROS
from pipelines.text import split_fields, split_lines

#: The ssh server's package, by distribution, and its unit.
_SSH_SERVERS = {"openssh-server": "ssh", "openssh": "sshd"}


Packages = set[tuple[str, str]]


def packages_query(manifest: Manifest) -> str:
    """Return the command that lists the installed packages, by the root's own package manager."""
    return shlex.join(DISTROS[manifest.recipe.distro].packages_query)


def packages_check(manifest: Manifest) -> str:
    """Return the command that fails where an installed package is not whole."""
    return shlex.join(DISTROS[manifest.recipe.distro].packages_check)


def parse_packages(listing: str) -> Packages:
    """Return the (name, version) of each package that is listed."""
    return {(name, version) for name, version in map(split_fields, split_lines(listing))}


def packages(host: Host, manifest: Manifest) -> Packages:
    """Return the (name, version) of each installed package, asked of the root's own package manager."""
    return parse_packages(host.check_output(packages_query(manifest)))


def ssh_service(found: Packages) -> str:
    """Return the name of the ssh server's unit, empty for a root that has none."""
    installed = {name for name, _ in found}
    return next((unit for package, unit in _SSH_SERVERS.items() if package in installed), "")


def drifts(found: Packages, manifest: Manifest) -> list[str]:
    """Return what the installed packages have otherwise than the manifest, in words."""
    assert found, "no package is installed"
    now = [Package(name=name, version=version) for name, version in sorted(found)]
    changes = compare(manifest.packages, now, manifest.recipe.distro).kinds()
    return [f"{kind} {change.name} {change.after or change.before}" for change, kind in changes]


def has_packages_of(host: Host, manifest: Manifest) -> None:
    """Compare the installed packages with the manifest's."""
    expected = {(package.name, package.version) for package in manifest.packages}
    assert expected, "the manifest lists no package"
    assert packages(host, manifest) == expected


#: What names a disk in fstab, and what lets a boot go on without it.
_DISKS = ("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
_MAY_BE_MISSING = {"nofail", "noauto"}


def _options(line: list[str]) -> set[str]:
    return {option for field in line[3:4] for option in field.split(",")}


def _fstab(content: str) -> list[list[str]]:
    """Return the fields of fstab's lines, of which mount(8) needs three."""
    lines = map(split_fields, split_lines(content))
    return [line for line in lines if line and not line[0].startswith("#")]


def has_virtiofs_fstab(host: Host) -> None:
    """Check that fstab mounts the root and nothing else."""
    assert _fstab(host.file("/etc/fstab").content_string) == [["root", "/", "virtiofs", "defaults", "0", "0"]]


def mounts_its_devices(fstab: str, guest: Guest) -> list[str]:
    """Check that fstab mounts the root, its /usr where that is a device, and the guest's shares.

    Return what else it mounts, which is the guest's own affair, unless a boot waits for it and there is no disk.
    """
    lines = _fstab(fstab)
    parts = [["root", "/"], *([["usr", "/usr"]] if guest.usr else [])]
    wanted = [[*part, "virtiofs"] for part in parts]
    found = [line for line in lines if line[1:2] in ([point] for _, point in parts)]
    assert [line[:3] for line in found] == wanted
    assert not [line for line in found if "ro" in _options(line)], "the root is mounted read-only"
    tags = {share.tag for share in guest.shares}
    mounted = [line[0] for line in lines if line[0] in tags and line[2:3] == ["virtiofs"]]
    assert sorted(mounted) == sorted(tags)
    others = [line for line in lines if line[:3] not in wanted and line[0] not in tags]
    definition = guest.hypervisor.xml(guest.uuid)
    without_disks = definition is not None and definition.find("devices/disk") is None
    waiting = [
        line[0]
        for line in others
        if not _MAY_BE_MISSING & _options(line)
        and (line[2:3] == ["virtiofs"] or (without_disks and line[0].startswith(_DISKS)))
    ]
    assert not waiting, f"a boot waits for {waiting[0]}, which fstab mounts, and which is no device of the guest's"
    return [" ".join(line[:2]) for line in others]


def modules_builtin(version: str) -> str:
    """Return the path of the list of what is built into the kernel ``version``."""
    return f"/usr/lib/modules/{version}/modules.builtin"


def mounts_virtiofs_without_an_initramfs(listed: str, version: str) -> None:
    """Check that what the root is mounted with is ``listed`` as built into the kernel ``version``."""
    built_in = {entry.rpartition("/")[2].removesuffix(".ko").replace("-", "_") for entry in split_lines(listed)}
    assert {"virtiofs", "virtio_pci", "fuse", "virtio"} <= built_in, f"kernel {version} cannot mount virtiofs alone"


def has_no_boot_loader(found: Packages, *, files: bool) -> None:
    """Check that neither grub's ``files``, the directory /boot/grub, nor its packages are there."""
    assert not files
    assert not [name for name, _ in found if name.startswith("grub")]


def is_a_directory_for_all(owner: str, mode: str) -> None:
    """Check the root's own directory: sshd lets nobody in by key where others may write to it, as it says itself."""
    fits = owner == "root" and int(mode, 8) & 0o077 == 0o055
    assert fits, f"bad ownership or modes for directory /: it is {owner}'s, and its mode is {mode}"
