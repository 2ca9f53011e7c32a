"""The rules that apply to a system that is imported."""

from __future__ import annotations

from dataclasses import replace

from pipelines.origin import rules as applying
from pipelines.origin.rules import Installed
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import Tree
from tests.support.systems import ARCH, DEBIAN, OLD_FSTAB, applied


def test_the_configuration_of_disks_is_removed() -> None:
    system = replace(
        DEBIAN,
        fstab=OLD_FSTAB,
        resume=("etc/initramfs-tools/conf.d/resume",),
        cmdline='GRUB_CMDLINE_LINUX="quiet"',
        crypttab=("data UUID=5 none luks",),
        units=("dev-sdb2.swap",),
        cards=("etc/network/interfaces names the network card ens3",),
    )
    lines = applied(system, "grub-pc", "grub-common", "shim-signed", "bash", "initramfs-tools")
    for expected in (
        "swap on UUID=3 is not used any more",
        "/srv/my\\040data was a file system of its own on UUID=4",
        "crypttab with 1 lines is put aside",
        "the unit dev-sdb2.swap waits for a disk",
        "import-root resume /rootfs/root etc/initramfs-tools/conf.d/resume",
        'GRUB_CMDLINE_LINUX="quiet"',
        "apt-get --yes --allow-remove-essential --allow-change-held-packages purge grub-common grub-pc shim-signed",
        "etc/network/interfaces names the network card ens3",
        "qemu-guest-agent is installed",
        "tree initramfs-tools; update-initramfs -u -k all",
        "import-root forget /rootfs/root ( -path etc/ssh/ssh_host_* -o ",
        "-delete; tree sshd; tree machine-specific",
    ):
        assert expected in lines
    # The initramfs is generated after the configuration of disks is removed.
    order = [lines.index(part) for part in ("prepare", "resume /rootfs", " purge grub", "update-initramfs", "close")]
    assert order == sorted(order)


def test_rules_that_do_not_apply_are_left_out() -> None:
    lines = applied(DEBIAN, "qemu-guest-agent", "initramfs-tools")
    assert not [word for word in ("crypttab", "swap", "resume", "install", "purge ", "links") if f"{word} " in lines]
    assert "what is left of grub" in lines
    assert "import-root links /rootfs/root 6.12.1-amd64" in applied(replace(DEBIAN, links={}), "initramfs-tools")


def test_arch_uses_its_own_tools() -> None:
    lines = applied(ARCH, "grub", "linux")
    assert "pacman --remove --nosave --recursive --noconfirm grub" in lines
    assert "pacman --config /run/pacman.conf -S$refresh --noconfirm qemu-guest-agent" in lines
    assert "tree mkinitcpio; mkinitcpio --allpresets" in lines


def test_a_system_keeps_its_identity_on_request() -> None:
    lines = applied(DEBIAN, "initramfs-tools", keep_identity=True)
    assert "forget" not in lines
    assert "is kept" in lines


def test_rules_name_existing_trees_only() -> None:
    for (distro, row), found in GENERATORS.items():
        system = DEBIAN if distro == "debian" else ARCH
        made = applying.make_rules(system, Installed(frozenset(), found), keep_identity=False)
        named = {step.name for rule in made for step in rule.steps if isinstance(step, Tree)}
        assert named == {"sshd", "machine-specific", *found.skeletons}, row
