"""Disks with systems to import."""

from __future__ import annotations

from pipelines.origin.disk import Found

#: The file systems of a disk, by device.
DEVICES = {f"/dev/sda{number}": "ext4" for number in range(1, 7)}


def make_disk_system(**changed: object) -> Found:
    """Return a Debian system as it is found on a disk; ``changed`` are fields of `Found`."""
    usual = {"root": "/dev/sda2", "type": "linux", "arch": "x86_64", "packages": "apt", "name": "debian 13"}
    mounts = {"/": "/dev/sda2", "/boot/efi": "/dev/sda1", "/home": "/dev/sda5", "/var": "/dev/sda6"}
    return Found.model_validate({**usual, "mounts": mounts, **changed})
