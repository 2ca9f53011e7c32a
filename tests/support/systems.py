"""Systems to import, and what the rules make of them."""

from __future__ import annotations

from dataclasses import replace

from pipelines.origin import rules as applying
from pipelines.origin.rules import Installed
from pipelines.origin.system import System
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import Command

DEBIAN = System(
    top=frozenset({"etc", "usr", "var"}),
    found=frozenset({"usr/bin", "usr/lib/systemd/systemd", "var/lib/dpkg/status", "usr/sbin/sshd", "etc/resolv.conf"}),
    machine="003e",
    release={"PRETTY_NAME": "Debian", "VERSION_CODENAME": "trixie"},
    fstab="",
    kernels=("6.1.0-1-amd64", "6.12.1-amd64"),
    links={"vmlinuz": "boot/vmlinuz-6.12.1-amd64"},
    signs={"managers": (("etc/systemd/system/multi-user.target.wants/NetworkManager.service", ()),)},
)
ARCH = replace(DEBIAN, found=DEBIAN.found - {"var/lib/dpkg/status"} | {"var/lib/pacman/local"}, kernels=("linux",))

#: The fstab of a system on disks.
OLD_FSTAB = """# static
UUID=1 / ext4 errors=remount-ro 0 1
UUID=2 /boot/efi vfat umask=0077 0 1
UUID=3 none swap sw 0 0
UUID=4 /srv/my\\040data ext4 defaults 0 2
tmpfs /tmp tmpfs defaults 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
"""


def applied(system: System, *packages: str, keep_identity: bool = False, row: str = "") -> str:
    """Return what the rules say and do, a line each."""
    found = GENERATORS[system.distro, row or ("initramfs-tools" if system.distro == "debian" else "mkinitcpio")]
    lines = []
    for rule in applying.make_rules(system, Installed(frozenset(packages), found), keep_identity=keep_identity):
        steps = [" ".join(step.argv) if isinstance(step, Command) else f"tree {step.name}" for step in rule.steps]
        lines.append(f"{rule.said} | {'; '.join(steps)}")
    return "\n".join(lines)
