"""A guest's shares: their devices in the domain's definition and their lines in the guest's fstab."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.recipe.share_spec import ROOT_TAG, USR_TAG
from pipelines.target import programs
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines, trim

_FSTAB = "etc/fstab"

#: The cache mode for a root whose /usr is a device of its own with ``always``, while the rest has ``auto``.
MIXED = "mixed"

#: The directory of a root that can be a device of its own.
USR = "usr"


@dataclass(frozen=True)
class Share:
    """A directory of libvirt's host that a guest has with the tag ``tag``; its virtiofsd enforces ``readonly``."""

    tag: str
    directory: str
    readonly: bool = False

    def __str__(self) -> str:
        """Return the share as written on the command line, without the mount point in the guest."""
        return f"{self.tag}:{self.directory}{':ro' if self.readonly else ''}"


def make_device(share: Share, binary: str = "") -> ET.Element:
    """Return the device of a share; ``binary`` is the path of its virtiofsd, empty for libvirt's default."""
    filesystem = ET.Element("filesystem", type="mount", accessmode="passthrough")
    ET.SubElement(filesystem, "driver", type="virtiofs", queue="1024")
    # No cache mode is set, so the default applies, which shows what the host and other guests write.
    ET.SubElement(filesystem, "binary", {"path": binary} if binary else {}, xattr="on")
    ET.SubElement(filesystem, "source", dir=share.directory)
    ET.SubElement(filesystem, "target", dir=share.tag)
    if share.readonly:
        ET.SubElement(filesystem, "readonly")
    return filesystem


def parse_shares(definition: ET.Element) -> tuple[Share, ...]:
    """Return the shares in a domain's definition: its virtiofs devices without those of the root."""
    found = [share for share in _parse_devices(definition) if share.tag != ROOT_TAG]
    return tuple(share for share in found if not _is_usr(definition, share))


def parse_cache(definition: ET.Element) -> str:
    """Return the cache mode of the root in a domain's definition: a mode of virtiofsd, or `MIXED`."""
    if any(_is_usr(definition, share) for share in _parse_devices(definition)):
        return MIXED
    mode = definition.find(f"devices/filesystem/target[@dir='{ROOT_TAG}']/../binary/cache")
    return "auto" if mode is None else mode.get("mode", "auto")


def _is_usr(definition: ET.Element, share: Share) -> bool:
    roots = [each.directory for each in _parse_devices(definition) if each.tag == ROOT_TAG]
    return share.tag == USR_TAG and share.directory in [f"{root}/{USR}" for root in roots]


def _parse_devices(definition: ET.Element) -> list[Share]:
    found = []
    for filesystem in definition.findall("devices/filesystem"):
        driver, source, target = (filesystem.find(name) for name in ("driver", "source", "target"))
        if driver is None or source is None or target is None or driver.get("type") != "virtiofs":
            continue
        readonly = filesystem.find("readonly") is not None
        found.append(Share(target.get("dir", ""), source.get("dir", ""), readonly))
    return found


def add_mount(target: Target, root: str, share: Share, point: str) -> None:
    """Make the mount point in a guest's root and add a line to its fstab that replaces an earlier one for that tag.

    With ``nofail`` a missing share delays nothing, and only its own mount fails. A share that is available is mounted
    before services start.
    """
    options = ["nofail", "x-systemd.before=local-fs.target", *(["ro"] if share.readonly else [])]
    line = f"{share.tag} {_escape(point)} virtiofs {','.join(options)} 0 0"
    programs.make_directory(target, root, point.lstrip("/"))
    _write_fstab(target, root, [*_drop_tag(_read_fstab(target, root), share.tag), line])


def add_usr_mount(target: Target, root: str) -> None:
    """Add a line for /usr as a device of its own to the root's fstab; init mounts it over the root's own directory.

    Raises `VirtrootError` if the root's /usr is not a directory inside the root.
    """
    programs.check_not_replaced(target, root, USR)
    line = f"{USR_TAG} /{USR} virtiofs defaults 0 0"
    _write_fstab(target, root, [*_drop_tag(_read_fstab(target, root), USR_TAG), line])


def remove_mount(target: Target, root: str, tag: str) -> bool:
    """Remove the line of the share ``tag`` from the fstab in a guest's root; return whether there was one."""
    lines = _read_fstab(target, root)
    kept = _drop_tag(lines, tag)
    if kept == lines:
        return False
    _write_fstab(target, root, kept)
    return True


def read_mount_points(target: Target, root: str) -> dict[str, str]:
    """Return the mount points in the fstab of a guest's root by tag."""
    fields = [split_fields(line) for line in _read_fstab(target, root) if not trim(line).startswith("#")]
    return {field[0]: _unescape(field[1]) for field in fields if len(field) > 2 and field[2] == "virtiofs"}


def read_mount_points_or_warn(target: Target, root: str) -> dict[str, str]:
    """Return the mount points as `read_mount_points` does; if the fstab cannot be read, warn and return none."""
    try:
        return read_mount_points(target, root)
    except VirtrootError as error:
        warn(f"cannot read where shares are mounted: {error.what}")
        return {}


def update_fstab(target: Target, root: str, shared: Sequence[Share], at: Mapping[str, str], *, usr: bool) -> None:
    """Change the fstab in ``root``, the next root of a guest, to have the lines of the devices that the guest has.

    ``at`` has the mount points of the shares ``shared`` in the guest's current root, by tag. ``usr`` says whether /usr
    is a device of its own.
    """
    there = read_mount_points(target, root)
    for tag in {*there} - {ROOT_TAG, *([USR_TAG] if usr else []), *(share.tag for share in shared)}:
        remove_mount(target, root, tag)
    for share in shared:
        if share.tag in at and there.get(share.tag) != at[share.tag]:
            add_mount(target, root, share, at[share.tag])
    if usr and USR_TAG not in there:
        add_usr_mount(target, root)


def _drop_tag(lines: list[str], tag: str) -> list[str]:
    return [line for line in lines if (fields := split_fields(line))[:1] != [tag] or fields[2:3] != ["virtiofs"]]


def _read_fstab(target: Target, root: str) -> list[str]:
    """Return the lines of the fstab; bytes that are not UTF-8 become surrogates and are written back unchanged."""
    text = programs.read(target, root, _FSTAB).decode(errors="surrogateescape")
    if "\0" not in text:
        return split_lines(text)
    raise VirtrootError(f"{root}/{_FSTAB}: not a text file", "fix it in the guest or on the host: the guest wrote it")


def _write_fstab(target: Target, root: str, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    programs.put(target, root, _FSTAB, 0o644, content.encode(errors="surrogateescape"))


def _escape(path: str) -> str:
    """Return ``path`` with the escapes of fstab(5)."""
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", path)


def _unescape(path: str) -> str:
    written = path.encode(errors="surrogateescape")
    plain = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), written)
    return plain.decode(errors="surrogateescape")
