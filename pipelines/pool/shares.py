"""A guest's shares: what its definition and its fstab say of them."""

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

#: The cache that is ``always`` for /usr, as a device of its own, and ``auto`` for the rest of the root.
MIXED = "mixed"

#: What of a root may be a device of its own.
USR = "usr"


@dataclass(frozen=True)
class Share:
    """A directory of libvirt's machine that a guest has as ``tag``; ``readonly`` is enforced by its virtiofsd."""

    tag: str
    directory: str
    readonly: bool = False

    def __str__(self) -> str:
        """Return it as it is written on the command line, without the path in the guest."""
        return f"{self.tag}:{self.directory}{':ro' if self.readonly else ''}"


def device(share: Share, binary: str = "") -> ET.Element:
    """Return the device that gives a guest the share; ``binary`` serves it, or libvirt's own choice where empty."""
    filesystem = ET.Element("filesystem", type="mount", accessmode="passthrough")
    ET.SubElement(filesystem, "driver", type="virtiofs", queue="1024")
    # The daemon's usual cache, whatever the root's is: others write there, too.
    ET.SubElement(filesystem, "binary", {"path": binary} if binary else {}, xattr="on")
    ET.SubElement(filesystem, "source", dir=share.directory)
    ET.SubElement(filesystem, "target", dir=share.tag)
    if share.readonly:
        ET.SubElement(filesystem, "readonly")
    return filesystem


def of(definition: ET.Element) -> tuple[Share, ...]:
    """Return the shares in a domain's definition: its virtiofs devices, those of the root apart."""
    found = [share for share in _devices(definition) if share.tag != ROOT_TAG]
    return tuple(share for share in found if not _is_usr(definition, share))


def cache(definition: ET.Element) -> str:
    """Return what the root in a domain's definition is served with: virtiofsd's word, or `MIXED`."""
    if any(_is_usr(definition, share) for share in _devices(definition)):
        return MIXED
    mode = definition.find(f"devices/filesystem/target[@dir='{ROOT_TAG}']/../binary/cache")
    return "auto" if mode is None else mode.get("mode", "auto")


def _is_usr(definition: ET.Element, share: Share) -> bool:
    roots = [each.directory for each in _devices(definition) if each.tag == ROOT_TAG]
    return share.tag == USR_TAG and share.directory in [f"{root}/{USR}" for root in roots]


def _devices(definition: ET.Element) -> list[Share]:
    found = []
    for filesystem in definition.findall("devices/filesystem"):
        driver, source, target = (filesystem.find(name) for name in ("driver", "source", "target"))
        if driver is None or source is None or target is None or driver.get("type") != "virtiofs":
            continue
        readonly = filesystem.find("readonly") is not None
        found.append(Share(target.get("dir", ""), source.get("dir", ""), readonly))
    return found


def mount(target: Target, root: str, share: Share, point: str) -> None:
    """Make the mount point in a guest's root and give it a line in its fstab, in place of an earlier one of that tag.

    A share that is not there delays nothing and fails nothing but its own mount (``nofail``); one that is there is
    mounted before services start.
    """
    options = ["nofail", "x-systemd.before=local-fs.target", *(["ro"] if share.readonly else [])]
    line = f"{share.tag} {_escaped(point)} virtiofs {','.join(options)} 0 0"
    programs.make_directory(target, root, point.lstrip("/"))
    _write(target, root, [*_others(_read(target, root), share.tag), line])


def mount_usr(target: Target, root: str) -> None:
    """Give the root's /usr, as a device of its own, a line in its fstab: what is there before init mounts it by that.

    Raises `VirtrootError` where it is no directory of the root's own.
    """
    programs.check_not_replaced(target, root, USR)
    line = f"{USR_TAG} /{USR} virtiofs defaults 0 0"
    _write(target, root, [*_others(_read(target, root), USR_TAG), line])


def unmount(target: Target, root: str, tag: str) -> bool:
    """Take the line of the share ``tag`` out of the fstab in a guest's root; say whether there was one."""
    lines = _read(target, root)
    kept = _others(lines, tag)
    if kept == lines:
        return False
    _write(target, root, kept)
    return True


def points(target: Target, root: str) -> dict[str, str]:
    """Return where the fstab in a guest's root mounts what, by tag."""
    fields = [split_fields(line) for line in _read(target, root) if not trim(line).startswith("#")]
    return {field[0]: _plain(field[1]) for field in fields if len(field) > 2 and field[2] == "virtiofs"}


def points_if_told(target: Target, root: str) -> dict[str, str]:
    """Return the same; nothing where the fstab cannot be read, which is said."""
    try:
        return points(target, root)
    except VirtrootError as error:
        warn(f"where shares are mounted is not told: {error.what}")
        return {}


def follow(target: Target, root: str, shared: Sequence[Share], at: Mapping[str, str], *, usr: bool) -> None:
    """Let the fstab in ``root``, which a guest is about to get, have the lines of the devices that the guest has.

    ``at`` says where those of ``shared`` are mounted in the root that it leaves, by tag; ``usr`` that its /usr is one.
    """
    there = points(target, root)
    for tag in {*there} - {ROOT_TAG, *([USR_TAG] if usr else []), *(share.tag for share in shared)}:
        unmount(target, root, tag)
    for share in shared:
        if share.tag in at and there.get(share.tag) != at[share.tag]:
            mount(target, root, share, at[share.tag])
    if usr and USR_TAG not in there:
        mount_usr(target, root)


def _others(lines: list[str], tag: str) -> list[str]:
    return [line for line in lines if (fields := split_fields(line))[:1] != [tag] or fields[2:3] != ["virtiofs"]]


def _read(target: Target, root: str) -> list[str]:
    """Return the lines of the fstab; bytes that are not UTF-8 are surrogates, and are written back as they were."""
    text = programs.read(target, root, _FSTAB).decode(errors="surrogateescape")
    if "\0" not in text:
        return split_lines(text)
    raise VirtrootError(f"{_FSTAB} in {root} is no text", "the guest wrote it; mend it there, or from the host")


def _write(target: Target, root: str, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    programs.put(target, root, _FSTAB, 0o644, content.encode(errors="surrogateescape"))


def _escaped(path: str) -> str:
    """Return ``path`` as fstab writes it (see fstab(5))."""
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", path)


def _plain(path: str) -> str:
    written = path.encode(errors="surrogateescape")
    plain = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), written)
    return plain.decode(errors="surrogateescape")
