"""The systems on a disk image, as libguestfs finds them: which is meant, and what of the disk is its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import VirtrootError
from pipelines.origin import fstab

_Text = Annotated[str, Field(max_length=4096)]

#: Where firmware looks for boot loaders: nothing there boots a guest.
_FIRMWARE = ("/boot/efi", "/efi")

#: libguestfs' words for the package managers that are known.
_PACKAGES = ("apt", "pacman")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Found(_Frozen):
    """A system on the disk: its root file system's device, libguestfs' words for it, and where it mounts what.

    ``mounts`` has what was found of its ``fstab``.
    """

    root: _Text
    type: _Text
    arch: _Text
    packages: _Text
    name: _Text
    mounts: Annotated[dict[_Text, _Text], Field(max_length=1000)]
    fstab: Annotated[str, Field(max_length=64 << 10)] = ""


class Disks(_Frozen):
    """What is on a disk: systems, file systems by device, bytes that are ``used`` of them, what stayed ``closed``."""

    systems: Annotated[tuple[Found, ...], Field(max_length=100)]
    closed: tuple[_Text, ...] = ()
    filesystems: Annotated[dict[_Text, _Text], Field(max_length=1000)] = {}
    used: dict[_Text, int] = {}


class Choice(_Frozen):
    """What is copied: mount points and devices, the root first; ``left`` stays behind. ``size`` is in bytes."""

    mounts: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...] = ()
    size: int = 0


def choose(disks: Disks, root_device: str, *, include_mounts: bool) -> Choice:
    """Return what to copy of the system whose root is ``root_device`` (empty: the only one).

    Raises `VirtrootError` where there is none, where several are and none is named, and for what cannot come.
    """
    found = _chosen(disks, root_device)
    if found.type != "linux":
        raise VirtrootError(f"{found.name} on {found.root} is {found.type}", "only Linux boots from virtiofs")
    if found.arch != "x86_64":
        raise VirtrootError(f"{found.name} is for {found.arch}", "only systems for x86_64 can be brought in")
    if found.packages not in _PACKAGES:
        raise VirtrootError(
            f"{found.name} has the package manager {found.packages}", "systems of Debian's and Arch's kind can come"
        )
    for mount in fstab.needed(found.fstab):
        if mount.point not in found.mounts and mount.point not in _FIRMWARE:
            raise VirtrootError(
                f"{mount.point} is on {mount.device}, which is not on this disk, or locked",
                "merge the disks into one image; an encrypted one is opened by --key FILE",
            )
    every = {"/": found.root, **found.mounts}
    points = {point: device for point, device in sorted(every.items()) if point not in _FIRMWARE}
    # A subvolume is named by its file system's device, and is on this disk where that is.
    missing = [
        (point, device)
        for point, device in points.items()
        if device not in disks.filesystems and not device.startswith("btrfsvol:")
    ]
    for point, device in missing:
        if fstab.is_of_the_system(point):
            raise VirtrootError(f"{point} is on {device}, which is not on this disk", "merge the disks into one image")
    there = [(point, device) for point, device in points.items() if (point, device) not in missing]
    taken = [
        (point, device) for point, device in there if point == "/" or include_mounts or fstab.is_of_the_system(point)
    ]
    left = tuple(each for each in there if each not in taken)
    return Choice(mounts=tuple(taken), left=left, size=sum(disks.used.get(device, 0) for _, device in taken))


def _chosen(disks: Disks, root_device: str) -> Found:
    if disks.closed and not disks.systems:
        raise VirtrootError(
            f"{', '.join(disks.closed)} is encrypted, and the key does not open it", "give the passphrase by --key FILE"
        )
    names = "; ".join(f"{each.root} ({each.name})" for each in disks.systems)
    if not disks.systems:
        kinds = ", ".join(f"{device} ({kind})" for device, kind in disks.filesystems.items())
        raise VirtrootError(f"there is no system on the disk, but {kinds or 'nothing'}", "name the disk it boots from")
    if root_device:
        chosen = next((each for each in disks.systems if each.root == root_device), None)
        if chosen is None:
            raise VirtrootError(f"no system has its root on {root_device}", f"systems there: {names}")
        return chosen
    if len(disks.systems) > 1:
        raise VirtrootError(f"there are {len(disks.systems)} systems on the disk: {names}", "choose by --root-device")
    return disks.systems[0]
