"""The wrapper of virtiofsd in a guest's definition: which one its devices name, and which one they should name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace

from pipelines.errors import VirtrootError
from pipelines.libvirt import host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper
from pipelines.recipe.share_spec import ROOT_TAG
from pipelines.target import programs
from pipelines.target.target import Target


def list_binaries(definition: ET.Element) -> tuple[str, ...]:
    """Return the programs that the virtiofs devices name, without duplicates; "" for libvirt's default."""
    found = set()
    for filesystem in _find_devices(definition):
        binary = filesystem.find("binary")
        found.add("" if binary is None else binary.get("path", ""))
    return tuple(sorted(found))


def has_overlayfs(definition: ET.Element) -> bool:
    """Return whether a virtiofsd of the guest keeps CAP_SYS_ADMIN."""
    return any(found.overlayfs for path in list_binaries(definition) if (found := wrappers.parse(path)))


def choose_for_share(definition: ET.Element) -> Wrapper:
    """Return the wrapper for a share of the guest: that of its root, but without CAP_SYS_ADMIN."""
    binary = definition.find(f"devices/filesystem/target[@dir='{ROOT_TAG}']/../binary")
    root = wrappers.parse("" if binary is None else binary.get("path", "")) or Wrapper()
    return replace(root, overlayfs=False)


def update(definition: ET.Element, release: str, *, handles: bool | None = None) -> bool:
    """Make all virtiofs devices name the wrapper for the kernel ``release``; return whether that changed any.

    If ``release`` is empty, because the kernel's is unknown, ACLs stay as they were. CAP_SYS_ADMIN always does.
    ``handles`` says whether the daemons shall use file handles; None leaves that as it was. A device with a program
    that is not virtroot's keeps it, since the user chose it.
    """
    changed = False
    for filesystem in _find_devices(definition):
        element = filesystem.find("binary")
        if element is None:
            element = ET.SubElement(filesystem, "binary")
        path = element.get("path", "")
        now = wrappers.parse(path)
        if path and now is None:
            continue
        now = now or Wrapper()
        kept = now.handles if handles is None else handles
        wanted = replace(now, acl=wrappers.has_acl_support(release) if release else now.acl, handles=kept).path
        changed = changed or wanted != path
        element.set("path", wanted)
    return changed


def install(target: Target, definition: ET.Element) -> None:
    """Write the wrapper under each of the names that the devices use."""
    for path in filter(wrappers.parse, list_binaries(definition)):
        host_files.install_wrapper(target, path)


def refresh(hypervisor: Hypervisor, domain: str, boot: str, *, handles: bool | None = None) -> ET.Element:
    """Update the definition of a domain whose kernel was copied to ``boot``; return it. It is used at the next start.

    Raises `VirtrootError` if the domain was undefined meanwhile, or if libvirt refuses the definition.
    """
    definition = hypervisor.xml(domain)
    if definition is None:
        raise VirtrootError(f"the domain {domain} was removed meanwhile", "see ./inv list for the guests")
    changed = update(definition, programs.read_kernel_release(hypervisor.target, boot), handles=handles)
    install(hypervisor.target, definition)
    if changed:
        hypervisor.virsh("define", "/dev/stdin", stdin=ET.tostring(definition))
    return definition


def _find_devices(definition: ET.Element) -> Iterator[ET.Element]:
    """Yield the virtiofs devices."""
    for filesystem in definition.iterfind("devices/filesystem"):
        if filesystem.find("driver[@type='virtiofs']") is not None:
            yield filesystem
