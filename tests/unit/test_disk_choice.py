"""Which system and file systems of a disk are imported."""

from __future__ import annotations

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin.disk import Disks, choose
from tests.support.disks import DEVICES, make_disk_system


def test_the_file_systems_of_the_system_are_copied_from_a_disk() -> None:
    disks = Disks(
        systems=(make_disk_system(),), filesystems=DEVICES, used={"/dev/sda2": 5, "/dev/sda6": 2, "/dev/sda5": 9}
    )
    choice = choose(disks, "", include_mounts=False)
    assert choice.mounts == (("/", "/dev/sda2"), ("/var", "/dev/sda6"))
    assert (choice.left, choice.size) == ((("/home", "/dev/sda5"),), 7)
    assert choose(disks, "", include_mounts=True).left == ()
    volume = make_disk_system(root="btrfsvol:/dev/sda2/@", mounts={"/": "btrfsvol:/dev/sda2/@"})
    assert choose(Disks(systems=(volume,), filesystems=DEVICES), "", include_mounts=False).mounts == (
        ("/", "btrfsvol:/dev/sda2/@"),
    )


@pytest.mark.parametrize(
    ("systems", "root_device", "why"),
    [
        ([], "", "no system on the disk, only /dev/sda1"),
        ([{"type": "windows", "name": "Windows 11"}], "", "Windows 11 on /dev/sda2 is windows"),
        ([{"arch": "aarch64"}], "", "is for aarch64"),
        ([{"packages": "rpm"}], "", "has the package manager rpm"),
        ([{"mounts": {"/": "/dev/sda2", "/usr": "/dev/sdb1"}}], "", "/usr is on /dev/sdb1, which is not on this disk"),
        ([{"fstab": "UUID=9 /usr ext4 defaults 0 2"}], "", "/usr is on UUID=9, which is not on this disk, or locked"),
        ([{}, {"root": "/dev/sda3"}], "", "2 systems on the disk: /dev/sda2 .*; /dev/sda3"),
        ([{}, {"root": "/dev/sda3"}], "/dev/sda4", "no system with its root on /dev/sda4"),
    ],
)
def test_a_disk_without_a_supported_system_is_refused(
    systems: list[dict[str, object]], root_device: str, why: str
) -> None:
    disks = Disks(systems=tuple(make_disk_system(**each) for each in systems), filesystems=DEVICES)
    with pytest.raises(VirtrootError, match=why):
        choose(disks, root_device, include_mounts=False)


def test_mounts_that_a_boot_does_not_need_may_be_missing() -> None:
    lines = "UUID=8 /var/cache ext4 nofail 0 2\nUUID=9 /opt ext4 noauto 0 2\nUUID=7 /srv/data ext4 defaults 0 2\n"
    disks = Disks(systems=(make_disk_system(fstab=lines),), filesystems=DEVICES)
    assert choose(disks, "", include_mounts=False).mounts == (("/", "/dev/sda2"), ("/var", "/dev/sda6"))


def test_the_root_is_mounted_first_whatever_fstab_says() -> None:
    disks = Disks(systems=(make_disk_system(mounts={"/usr": "/dev/sda3"}),), filesystems=DEVICES)
    assert choose(disks, "", include_mounts=False).mounts == (("/", "/dev/sda2"), ("/usr", "/dev/sda3"))


def test_of_several_systems_the_named_one_is_chosen() -> None:
    other = make_disk_system(root="/dev/sda3", mounts={"/": "/dev/sda3"})
    assert choose(
        Disks(systems=(make_disk_system(), other), filesystems=DEVICES), "/dev/sda3", include_mounts=False
    ).mounts == (("/", "/dev/sda3"),)


def test_a_locked_disk_is_refused_without_a_key() -> None:
    with pytest.raises(VirtrootError, match="cannot unlock /dev/sda2"):
        choose(Disks(systems=(), closed=("/dev/sda2",)), "", include_mounts=False)
