"""Chooses a system of a disk image, as described by libguestfs, and the file systems to copy."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import VirtrootError
from pipelines.origin import fstab

_Text = Annotated[str, Field(max_length=4096)]

#: Mount points of boot loaders for firmware, which a guest does not need.
_FIRMWARE = ("/boot/efi", "/efi")

#: The supported package managers, by their names in libguestfs.
_PACKAGES = ("apt", "pacman")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Found(_Frozen):
    """A system on the disk: the device of its root, libguestfs' description, and its mount points with their devices.

    ``mounts`` has those of its ``fstab`` that libguestfs found.
    """

    root: _Text
    type: _Text
    arch: _Text
    packages: _Text
    name: _Text
    mounts: Annotated[dict[_Text, _Text], Field(max_length=1000)]
    fstab: Annotated[str, Field(max_length=64 << 10)] = ""


class Disks(_Frozen):
    """The content of a disk: systems, file systems by device, their ``used`` bytes, and locked (``closed``) devices."""

    systems: Annotated[tuple[Found, ...], Field(max_length=100)]
    closed: tuple[_Text, ...] = ()
    filesystems: Annotated[dict[_Text, _Text], Field(max_length=1000)] = {}
    used: dict[_Text, int] = {}


class Choice(_Frozen):
    """The mount points and devices to copy, the root first, and those ``left`` behind. ``size`` is in bytes."""

    mounts: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...] = ()
    size: int = 0


def choose(disks: Disks, root_device: str, *, include_mounts: bool) -> Choice:
    """Return what to copy of the system whose root is ``root_device``, or of the only system if that is empty.

    Raises VirtrootError if there is no such system, if there are several, and if it cannot be imported.
    """
    found = _get_system(disks, root_device)
    if found.type != "linux":
        raise VirtrootError(
            f"{found.name} on {found.root} is {found.type}",
            "use the disk of a Linux system: only Linux boots from virtiofs",
        )
    if found.arch != "x86_64":
        raise VirtrootError(f"{found.name} is for {found.arch}", "use a system for x86_64")
    if found.packages not in _PACKAGES:
        raise VirtrootError(
            f"{found.name} has the package manager {found.packages}",
            "use a system based on Debian or Arch",
        )
    for mount in fstab.find_needed(found.fstab):
        if mount.point not in found.mounts and mount.point not in _FIRMWARE:
            raise VirtrootError(
                f"{mount.point} is on {mount.device}, which is not on this disk, or locked",
                "merge the disks into one image; for an encrypted one use --key FILE",
            )
    every = {"/": found.root, **found.mounts}
    points = {point: device for point, device in sorted(every.items()) if point not in _FIRMWARE}
    # A subvolume (btrfsvol:) is on the disk of its file system.
    missing = [
        (point, device)
        for point, device in points.items()
        if device not in disks.filesystems and not device.startswith("btrfsvol:")
    ]
    for point, device in missing:
        if fstab.is_system_part(point):
            raise VirtrootError(f"{point} is on {device}, which is not on this disk", "merge the disks into one image")
    there = [(point, device) for point, device in points.items() if (point, device) not in missing]
    taken = [
        (point, device) for point, device in there if point == "/" or include_mounts or fstab.is_system_part(point)
    ]
    left = tuple(each for each in there if each not in taken)
    return Choice(mounts=tuple(taken), left=left, size=sum(disks.used.get(device, 0) for _, device in taken))


def _get_system(disks: Disks, root_device: str) -> Found:
    if disks.closed and not disks.systems:
        raise VirtrootError(
            f"cannot unlock {', '.join(disks.closed)} with the key", "use --key FILE with the passphrase"
        )
    names = "; ".join(f"{each.root} ({each.name})" for each in disks.systems)
    if not disks.systems:
        kinds = ", ".join(f"{device} ({kind})" for device, kind in disks.filesystems.items())
        raise VirtrootError(f"no system on the disk, only {kinds or 'nothing'}", "use the disk that it boots from")
    if root_device:
        chosen = next((each for each in disks.systems if each.root == root_device), None)
        if chosen is None:
            raise VirtrootError(
                f"no system with its root on {root_device}", f"use one of the systems on the disk: {names}"
            )
        return chosen
    if len(disks.systems) > 1:
        raise VirtrootError(f"{len(disks.systems)} systems on the disk: {names}", "use --root-device to choose one")
    return disks.systems[0]
