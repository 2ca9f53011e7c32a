"""The domain's XML: a pure function; the elements have libvirt's names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from uuid import UUID

from pipelines.errors import VirtrootError
from pipelines.guest import root_source
from pipelines.guest.root_source import RootSource
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place, shares
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ROOT_TAG, USR_TAG
from pipelines.target.payload import metadata
from pipelines.target.payload.metadata import ELEMENT, NAMESPACE, tag

ET.register_namespace("virtroot", NAMESPACE)

_PLAIN = Wrapper()


@dataclass(frozen=True)
class Domain:
    """Everything that the domain's XML depends on.

    ``memory`` is in bytes. ``network`` is ``user``, ``none`` or the name of a libvirt network.
    ``root`` is the guest's root on libvirt's host, ``source`` what it was made from and how it boots. ``boot`` is the
    directory of the host with the files ``kernel`` and ``initrd``, which are copied there before each start.
    ``wrapper`` is what the guest needs from its virtiofsd, see `wrappers`; with ``overlayfs`` it can mount overlayfs on
    its root.
    ``shares`` are directories of libvirt's host that the guest has in addition to its root.
    ``transient`` names the task whose temporary guest this is; empty for a permanent one.
    """

    name: str
    uuid: UUID
    source: RootSource
    root: str
    boot: str
    memory: int
    vcpus: int
    network: str
    cache: str
    kvm: bool
    wrapper: Wrapper = _PLAIN
    shares: tuple[Share, ...] = ()
    transient: str = ""

    @property
    def overlayfs(self) -> bool:
        """Whether virtiofsd keeps CAP_SYS_ADMIN, which the guest needs to mount overlayfs on its root."""
        return self.wrapper.overlayfs

    @property
    def console_log(self) -> str:
        """The log file of the guest's serial console, since its last start."""
        return place.console_log(self.name)


def make_xml(domain: Domain) -> str:
    """Return the domain's XML, indented; see https://libvirt.org/formatdomain.html for the elements."""
    top = ET.Element("domain", type="kvm" if domain.kvm else "qemu")
    _add_text(top, "name", domain.name)
    _add_text(top, "uuid", str(domain.uuid))
    # For virt-manager and Cockpit, which show them.
    _add_text(top, "title", f"virtroot: {domain.source.artifact.recipe}")
    _add_text(top, "description", root_source.describe(domain.source))
    _add_metadata(top, domain)
    _add_text(top, "memory", str(domain.memory >> 10), unit="KiB")
    _add_text(top, "vcpu", str(domain.vcpus))
    # virtiofsd reads and writes the guest's memory, so the memory has to be shared.
    backing = ET.SubElement(top, "memoryBacking")
    ET.SubElement(backing, "source", type="memfd")
    ET.SubElement(backing, "access", mode="shared")
    system = ET.SubElement(top, "os")
    _add_text(system, "type", "hvm", arch="x86_64", machine="q35")
    _add_text(system, "kernel", f"{domain.boot}/kernel")
    if domain.source.initrd:
        _add_text(system, "initrd", f"{domain.boot}/initrd")
    _add_text(system, "cmdline", domain.source.cmdline)
    features = ET.SubElement(top, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    ET.SubElement(top, "cpu", mode="host-passthrough" if domain.kvm else "maximum")
    _add_text(top, "on_reboot", "restart")
    _add_text(top, "on_crash", "destroy")
    _add_devices(ET.SubElement(top, "devices"), domain)
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"


def rename_definition(definition: ET.Element, root: str, paths: Place, uuid: UUID) -> None:
    """Change ``definition``, of the guest with the root ``root``, into the definition of a new guest at ``paths``.

    Other changes that the user made in the definition stay.
    """
    texts = {"name": paths.name, "uuid": str(uuid), "os/kernel": f"{paths.boot}/kernel"}
    if definition.find("os/initrd") is not None:
        texts["os/initrd"] = f"{paths.boot}/initrd"
    texts[f"{ELEMENT}/{tag('root')}"] = paths.root
    for path, text in texts.items():
        element = definition.find(path)
        if element is None:
            raise VirtrootError(f"the domain has no {path}", "check its definition: virsh dumpxml")
        element.text = text
    for source in definition.iterfind("devices/filesystem/source"):
        directory = source.get("dir", "")
        if directory == root or directory.startswith(f"{root}/"):
            source.set("dir", paths.root + directory[len(root) :])
    for log in definition.iterfind("devices/serial/log"):
        log.set("file", place.console_log(paths.name))
    guest = definition.find(ELEMENT)
    lower = None if guest is None else guest.find(tag("lower"))
    if guest is not None and lower is not None:
        # The clone has its own copy of both layers: it does not use the base tree.
        guest.remove(lower)
        for golden in guest.findall(tag("golden")):
            guest.remove(golden)
    # A clone is permanent, even of a temporary guest. libvirt generates the other elements for each domain.
    for parent, child in (
        (ELEMENT, tag("transient")),
        (".", "genid"),
        ("devices/interface", "mac"),
        ("devices/interface", "target"),
        ("devices/channel", "source"),
    ):
        for element in definition.iterfind(parent):
            for found in element.findall(child):
                element.remove(found)


def _add_metadata(top: ET.Element, domain: Domain) -> None:
    guest = ET.SubElement(ET.SubElement(top, "metadata"), tag("guest"))
    for name in metadata.FIELDS:
        text = getattr(domain.source if name in root_source.NAMES else domain, name)
        if text:
            _add_text(guest, tag(name), text)


def _add_devices(devices: ET.Element, domain: Domain) -> None:
    mixed = domain.cache == shares.MIXED
    _add_root_device(devices, domain, domain.root, ROOT_TAG, "auto" if mixed else domain.cache)
    if mixed:
        _add_root_device(devices, domain, f"{domain.root}/{shares.USR}", USR_TAG, "always")
    # The virtiofsd of a share does not need CAP_SYS_ADMIN: overlayfs is mounted on the root.
    plain = replace(domain.wrapper, overlayfs=False).path
    devices.extend(shares.make_device(share, plain) for share in domain.shares)
    if domain.network != "none":
        user = domain.network == "user"
        interface = ET.SubElement(devices, "interface", type="user" if user else "network")
        if not user:
            ET.SubElement(interface, "source", network=domain.network)
        ET.SubElement(interface, "model", type="virtio")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=domain.console_log, append="off")
    ET.SubElement(serial, "target", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _add_text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="virtio")


def _add_root_device(devices: ET.Element, domain: Domain, directory: str, tag: str, cache: str) -> None:
    """Add the device of the root, or of a directory in it."""
    filesystem = ET.SubElement(devices, "filesystem", type="mount", accessmode="passthrough")
    ET.SubElement(filesystem, "driver", type="virtiofs", queue="1024")
    binary = ET.SubElement(filesystem, "binary", path=domain.wrapper.path, xattr="on")
    if cache != "auto":
        ET.SubElement(binary, "cache", mode=cache)
    ET.SubElement(filesystem, "source", dir=directory)
    ET.SubElement(filesystem, "target", dir=tag)


def _add_text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
