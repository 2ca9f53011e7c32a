"""Whether a guest's definition can boot from virtiofs: rules about its XML, which people edit."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.health.finding import Finding, fault, fine
from pipelines.pool import place
from pipelines.recipe.share_spec import ROOT_TAG
from pipelines.text import split_fields

#: What the kernel command line has to contain.
_CMDLINE = (f"root={ROOT_TAG}", "rootfstype=virtiofs")


def judge(guest: Guest, definition: ET.Element) -> list[Finding]:
    """Return the faults in the definition of a guest, or one finding that there are none."""
    rules = (_judge_memory, _judge_device, _judge_lock, _judge_kernel, _judge_cmdline, _judge_place)
    wrong = [found for rule in rules if (found := rule(guest, definition))]
    return wrong or [fine(guest.name, "definition", "has everything that a root on virtiofs needs")]


def _edit_command(guest: Guest) -> str:
    return f"virsh edit {guest.name}"


def _judge_memory(guest: Guest, definition: ET.Element) -> Finding | None:
    backing = definition.find("memoryBacking")
    cells = definition.findall("cpu/numa/cell")
    shared = backing is not None and backing.find("access[@mode='shared']") is not None
    if not shared and not (cells and all(cell.get("memAccess") == "shared" for cell in cells)):
        do = f"{_edit_command(guest)}: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
        return fault(guest.name, "memory", "it is not shared with virtiofsd: libvirt will not start the guest", do)
    if backing is not None and (backing.find("source[@type='memfd']") is None and backing.find("hugepages") is None):
        do = f"{_edit_command(guest)}: <source type='memfd'/> in <memoryBacking>"
        return fault(guest.name, "memory", "it is backed by a file on disk, not by a memfd", do, needed=False)
    return None


def _judge_device(guest: Guest, definition: ET.Element) -> Finding | None:
    found = [each for each in definition.iterfind("devices/filesystem") if _get_tag(each) == ROOT_TAG]
    right = f"<driver type='virtiofs'/>, <source dir='{guest.root}'/>, <target dir='{ROOT_TAG}'/>"
    do = f"{_edit_command(guest)}: one <filesystem> with {right}"
    if len(found) != 1:
        how = "none" if not found else str(len(found))
        return fault(guest.name, "root's device", f"there are {how} with the tag {ROOT_TAG}, there has to be one", do)
    driver, source = found[0].find("driver"), found[0].find("source")
    if driver is None or driver.get("type") != "virtiofs":
        return fault(guest.name, "root's device", "it is not virtiofs", do)
    directory = "" if source is None else source.get("dir", "")
    if directory != guest.root:
        return fault(guest.name, "root's device", f"it is {directory or 'none'}, but the root is {guest.root}", do)
    return None


def _get_tag(filesystem: ET.Element) -> str:
    target = filesystem.find("target")
    return "" if target is None else target.get("dir", "")


def _judge_lock(guest: Guest, definition: ET.Element) -> Finding | None:
    if definition.find("devices/filesystem/binary/lock") is None:
        return None
    do = f"{_edit_command(guest)}: remove <lock> from <binary>"
    return fault(guest.name, "lock", "a <filesystem> has <lock>: recent virtiofsd does not start with it", do)


def _judge_kernel(guest: Guest, definition: ET.Element) -> Finding | None:
    wanted = {"kernel": f"{guest.boot}/kernel", "initrd": f"{guest.boot}/initrd" if guest.source.initrd else ""}
    for name, path in wanted.items():
        found = definition.findtext(f"os/{name}") or ""
        if found != path:
            element = f"<{name}>{path}</{name}>" if path else f"no <{name}>"
            inside = found.startswith(f"{guest.root}/")
            says = f"its {name} is {found or 'none'}, not {path or 'none'}"
            risk = ", inside the root, where the guest can replace it by any file of the host" if inside else ""
            return fault(guest.name, "boot paths", says + risk, f"{_edit_command(guest)}: {element}")
    return None


def _judge_cmdline(guest: Guest, definition: ET.Element) -> Finding | None:
    said = split_fields(definition.findtext("os/cmdline") or "")
    missing = [word for word in _CMDLINE if word not in said]
    if not missing:
        return None
    do = f"{_edit_command(guest)}: add {' '.join(missing)} to <cmdline>, and remove any other root="
    return fault(guest.name, "cmdline", f"it lacks {' '.join(missing)}: the kernel looks for a disk", do)


def _judge_place(guest: Guest, _: ET.Element) -> Finding | None:
    try:
        place.of_root(guest.root)
    except VirtrootError as error:
        return fault(guest.name, "place", error.what, error.hint)
    return None
