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


def applied(system: System, *packages: str, keep_identity: bool = False, row: str = "") -> str:
    """Return what the rules say and do, a line each."""
    found = GENERATORS[system.distro, row or ("initramfs-tools" if system.distro == "debian" else "mkinitcpio")]
    lines = []
    for rule in applying.make_rules(system, Installed(frozenset(packages), found), keep_identity=keep_identity):
        steps = [" ".join(step.argv) if isinstance(step, Command) else f"tree {step.name}" for step in rule.steps]
        lines.append(f"{rule.said} | {'; '.join(steps)}")
    return "\n".join(lines)
