"""The fstab of an imported system."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.origin.fstab import ROOT_LINE, Mount, find_needed, is_system_part, rewrite
from tests.support.systems import DEBIAN, OLD_FSTAB, applied


def active(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_root_is_the_only_line_and_old_lines_become_comments() -> None:
    text = rewrite(OLD_FSTAB).text
    assert active(text) == [ROOT_LINE]
    assert all(f"# {line}" in text.splitlines() for line in OLD_FSTAB.splitlines())


def test_swap_and_data_are_named() -> None:
    found = rewrite(OLD_FSTAB)
    assert found.swap == ("UUID=3",)
    assert found.data == (Mount("UUID=4", "/srv/my\\040data", "ext4", "defaults"),)


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_no_control_character_makes_a_line_of_its_own(end: str) -> None:
    text = rewrite(f"a /a ext4 defaults 0 0{end}evil /etc ext4 defaults 0 0\x1b[2J\n").text
    assert active(text) == [ROOT_LINE]
    assert "\x1b" not in text


def test_only_mounts_from_disks_are_needed() -> None:
    """Network file systems, bind mounts and files of the system itself are not missing partitions."""
    text = """
nas:/export /var/www nfs defaults 0 0
//nas/x /var/lib/x cifs credentials=/root/x 0 0
host:/y /var/y fuse.sshfs defaults 0 0
/srv/docker /var/lib/docker none bind 0 0
/root/disk.iso /opt/iso iso9660 loop,ro 0 0
/root/fs.img /opt/img ext4 defaults 0 0
UUID=5 /var/net ext4 _netdev 0 0
UUID=6 /var/maybe ext4 nofail 0 0
UUID=7 //boot/ ext4 defaults 0 0
/dev/mapper/vg-var /var ext4 defaults 0 0
rpool/opt /opt zfs defaults 0 0
UUID=8 /srv ext4 defaults 0 0
"""
    assert [mount.point for mount in find_needed(text)] == ["/boot", "/var", "/opt"]
    lines = applied(replace(DEBIAN, fstab=text), "initramfs-tools")
    assert "/var/www was mounted from nas:/export, and is not any more: its line in fstab is a comment" in lines
    assert "/srv was a file system of its own on UUID=8" in lines


def test_an_empty_fstab_becomes_the_root_line() -> None:
    assert rewrite("").text == f"{ROOT_LINE}\n"


def test_directories_of_a_system_are_distinguished_from_data() -> None:
    assert all(map(is_system_part, ["/boot", "/boot/efi", "/usr", "/var/log"]))
    assert not any(map(is_system_part, ["/srv", "/home", "/variety", "/mnt/usr"]))
