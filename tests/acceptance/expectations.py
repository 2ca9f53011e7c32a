"""What both a tree and a running guest have to show."""

from __future__ import annotations

import shlex

from testinfra.host import Host

from pipelines.artifact.difference import compare
from pipelines.artifact.manifest import Manifest, Package
from pipelines.guest.shares import Shared
from pipelines.recipe.distros import DISTROS

#: The ssh server's package, by distribution, and its unit.
_SSH_SERVERS = {"openssh-server": "ssh", "openssh": "sshd"}


def packages(host: Host, manifest: Manifest) -> set[tuple[str, str]]:
    """Return the (name, version) of each installed package, asked of the root's own package manager."""
    query = shlex.join(DISTROS[manifest.recipe.distro].packages_query)
    return {(name, version) for name, version in (line.split() for line in host.check_output(query).splitlines())}


def ssh_service(manifest: Manifest) -> str:
    """Return the name of the ssh server's unit, empty for a root that has none."""
    installed = {package.name for package in manifest.packages}
    return next((unit for package, unit in _SSH_SERVERS.items() if package in installed), "")


def drifts(host: Host, manifest: Manifest) -> list[str]:
    """Check that all installed packages are whole; return what they have otherwise than the manifest, in words."""
    found = packages(host, manifest)
    assert found, "no package is installed"
    host.check_output(shlex.join(DISTROS[manifest.recipe.distro].packages_check))
    now = [Package(name=name, version=version) for name, version in sorted(found)]
    changes = compare(manifest.packages, now, manifest.recipe.distro).kinds()
    return [f"{kind} {change.name} {change.after or change.before}" for change, kind in changes]


def has_packages_of(host: Host, manifest: Manifest) -> None:
    """Compare the installed packages with the manifest's."""
    expected = {(package.name, package.version) for package in manifest.packages}
    assert expected, "the manifest lists no package"
    assert packages(host, manifest) == expected


def has_virtiofs_fstab(host: Host, shares: tuple[Shared, ...] = (), *, usr: bool = False) -> None:
    """Check that fstab mounts the root, its /usr where that is a device, the guest's ``shares`` and nothing else."""
    lines = [line.split() for line in host.file("/etc/fstab").content_string.splitlines() if not line.startswith("#")]
    tags = {share.tag for share in shares}
    mounted = [line[0] for line in lines if line and line[0] in tags and line[2] == "virtiofs"]
    assert sorted(mounted) == sorted(tags)
    parts = [["root", "/"], ["usr", "/usr"]] if usr else [["root", "/"]]
    assert [line for line in lines if line and line[0] not in tags] == [
        [*part, "virtiofs", "defaults", "0", "0"] for part in parts
    ]


def mounts_virtiofs_without_an_initramfs(host: Host, version: str) -> None:
    """Check that what the root is mounted with is built into the kernel ``version``."""
    listed = host.file(f"/usr/lib/modules/{version}/modules.builtin").content_string.split()
    built_in = {entry.rpartition("/")[2].removesuffix(".ko").replace("-", "_") for entry in listed}
    assert {"virtiofs", "virtio_pci", "fuse", "virtio"} <= built_in, f"kernel {version} cannot mount virtiofs alone"


def has_no_boot_loader(host: Host, manifest: Manifest) -> None:
    """Check that neither grub's files nor its packages are there."""
    assert not host.file("/boot/grub").exists
    assert not [name for name, _ in packages(host, manifest) if name.startswith("grub")]


def is_a_directory_for_all(owner: str, mode: str) -> None:
    """Check the root's own directory: sshd lets nobody in by key where others may write to it, as it says itself."""
    fits = owner == "root" and int(mode, 8) & 0o077 == 0o055
    assert fits, f"bad ownership or modes for directory /: it is {owner}'s, and its mode is {mode}"
