"""Facts that are collected from the tree of a system to import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import system_facts
from pipelines.origin.system import refuse
from pipelines.target.target import Local
from tests.support.systems import ARCH, applied


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the facts of a Debian system, and with links and names that are meant to mislead."""
    root = tmp_path / "system"
    for directory in (
        "etc/systemd/system",
        "usr/bin",
        "usr/lib/systemd",
        "var/lib/dpkg",
        "boot",
        "usr/lib/modules/6.1",
    ):
        (root / directory).mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").write_bytes(b"\x7fELF" + b"\0" * 14 + b"\x3e\x00" + b"\0" * 44)
    (root / "var/lib/dpkg/status").touch()
    (root / "usr/lib/os-release").write_text('ID=debian\nPRETTY_NAME="Debian \x1b[31mred\x1e\x1f"\n')
    (root / "etc/fstab").write_text("UUID=1 / ext4 defaults 0 1\n")
    (root / "etc/machine-id").write_text("0" * 31 + "1\n")
    (root / "boot/vmlinuz-6.1").touch()
    (root / "vmlinuz").symlink_to("boot/vmlinuz-6.1")
    (root / "initrd.img").symlink_to("/etc/passwd")
    (root / "etc/crypttab").symlink_to("/etc/passwd")
    (root / "etc/systemd/system/a b;c.swap").write_text("[Swap]\nWhat=/dev/sdb2\n")
    return root


def test_facts_are_collected_from_a_tree(tree: Path) -> None:
    system = system_facts.collect(Local(), str(tree))
    refuse(system)
    assert (system.distro, system.machine, system.machine_id) == ("debian", "003e", "0" * 31 + "1")
    assert system.fstab == "UUID=1 / ext4 defaults 0 1\n"
    assert system.kernels == ("6.1",)
    assert system.links == {"vmlinuz": "boot/vmlinuz-6.1"}
    assert system.units == ("a b;c.swap",)
    # /etc/crypttab is a link out of the tree, which is not followed.
    assert system.crypttab == ()


def test_basic_facts_equal_all_facts_and_follow_no_link_out(tree: Path, tmp_path: Path) -> None:
    looked, glanced = system_facts.collect(Local(), str(tree)), system_facts.collect_basics(tree)
    for name in ("top", "found", "machine", "fstab", "distro"):
        assert getattr(glanced, name) == getattr(looked, name), name
    refuse(glanced)
    # A link out of the tree is not read and counts as missing.
    (tree / "etc/fstab").unlink()
    (tree / "etc/fstab").symlink_to("/etc/fstab")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/systemd").write_bytes(b"x" * 64)
    (tree / "usr/lib/systemd/systemd").unlink()
    (tree / "usr/lib/systemd").rmdir()
    (tree / "usr/lib/systemd").symlink_to(tmp_path / "outside")
    glanced = system_facts.collect_basics(tree)
    assert (glanced.fstab, glanced.machine) == ("", "")
    assert "usr/lib/systemd/systemd" not in glanced.found


def test_the_disks_in_a_configuration_are_found(tree: Path) -> None:
    for path, text in {
        "etc/dracut.conf.d/cmdline.conf": 'kernel_cmdline+=" rd.luks.uuid=luks-1 quiet resume=UUID=2 "\n',
        "etc/dracut.conf.d/other.conf": 'kernel_cmdline="quiet noresume"\n# kernel_cmdline=" resume=x"\n',
        "etc/mkinitcpio.d/linux.preset": 'ALL_config="/etc/mkinitcpio.conf"\n',
        "etc/mkinitcpio.d/own.preset": "ALL_config=/etc/own.conf\n#ALL_config=/etc/mkinitcpio.conf\n",
        "etc/initramfs-tools/initramfs.conf": "FSTYPE=auto\n",
        "etc/initramfs-tools/conf.d/type": "FSTYPE=virtiofs\n",
        "etc/network/interfaces": "# ensure that enough is set for ens9\nallow-hotplug enp1s0\n",
        "etc/netplan/a.yaml": "ensure: enough\n",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    system = system_facts.collect(Local(), str(tree))
    assert system.dracut == ("etc/dracut.conf.d/cmdline.conf",)
    assert system.presets == ("etc/mkinitcpio.d/linux.preset",)
    assert system.fstype == ("etc/initramfs-tools/conf.d/type",)
    assert system.cards == ("etc/network/interfaces names the network card enp1s0",)
    lines = applied(system, "initramfs-tools")
    assert "FSTYPE in etc/initramfs-tools/conf.d/type adds no module" in lines
    assert "import-root dracut /rootfs/root etc/dracut.conf.d/cmdline.conf" in lines
    assert "presets" not in lines
    assert "presets /rootfs/root etc/mkinitcpio.d/linux.preset" in applied(
        replace(ARCH, presets=system.presets), "linux"
    )


def test_an_oversized_fstab_is_refused(tree: Path) -> None:
    with (tree / "etc/fstab").open("wb") as fstab:
        fstab.truncate(10 << 30)
    with pytest.raises(VirtrootError, match="larger than 64 KiB"):
        system_facts.collect(Local(), str(tree))
