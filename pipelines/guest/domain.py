"""The domain's XML: one pure function, elements under libvirt's own names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from uuid import UUID

from pipelines.errors import VirtrootError
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place, shares
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ROOT_TAG, USR_TAG
from pipelines.target.payload.handover import NAMESPACE

ET.register_namespace("virtroot", NAMESPACE)

_PLAIN = Wrapper()


@dataclass(frozen=True)
class Domain:
    """What decides a domain. ``memory`` is in bytes; ``network`` is ``user``, ``none`` or a libvirt network's name.

    ``root`` is the guest's directory on libvirt's machine, ``boot`` the host-owned directory with ``kernel`` and
    ``initrd``; ``kernel`` and ``initrd`` here are the paths inside the root that are copied there before each start;
    ``initrd`` is empty where there is none.
    ``wrapper`` is what the guest needs of its virtiofsd, see `wrappers`; with ``overlayfs`` it can mount overlayfs on
    its root.
    ``shares`` are directories of libvirt's machine that the guest has beside its root.
    ``transient`` says whose guest it is that nobody keeps; empty for one that is kept.
    ``golden`` is the directory of the golden tree that the root was made from, empty for none, and ``lower`` that
    tree's digest, where the root is a layer on top of it.
    """

    name: str
    uuid: UUID
    artifact: str
    root: str
    boot: str
    kernel: str
    initrd: str
    cmdline: str
    memory: int
    vcpus: int
    network: str
    cache: str
    kvm: bool
    wrapper: Wrapper = _PLAIN
    shares: tuple[Share, ...] = ()
    transient: str = ""
    golden: str = ""
    lower: str = ""

    @property
    def overlayfs(self) -> bool:
        """Whether virtiofsd keeps CAP_SYS_ADMIN, without which the guest cannot mount overlayfs on its root."""
        return self.wrapper.overlayfs

    @property
    def console_log(self) -> str:
        """The file that keeps what the guest printed on its serial console since its last start."""
        return place.console_log(self.name)


def domain_xml(domain: Domain) -> str:
    """Return the domain's XML, indented; see https://libvirt.org/formatdomain.html for each element."""
    top = ET.Element("domain", type="kvm" if domain.kvm else "qemu")
    _text(top, "name", domain.name)
    _text(top, "uuid", str(domain.uuid))
    _metadata(top, domain)
    _text(top, "memory", str(domain.memory >> 10), unit="KiB")
    _text(top, "vcpu", str(domain.vcpus))
    # virtiofsd reads and writes the guest's memory, so it has to be shared memory.
    backing = ET.SubElement(top, "memoryBacking")
    ET.SubElement(backing, "source", type="memfd")
    ET.SubElement(backing, "access", mode="shared")
    system = ET.SubElement(top, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    _text(system, "kernel", f"{domain.boot}/kernel")
    if domain.initrd:
        _text(system, "initrd", f"{domain.boot}/initrd")
    _text(system, "cmdline", domain.cmdline)
    features = ET.SubElement(top, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    ET.SubElement(top, "cpu", mode="host-passthrough" if domain.kvm else "maximum")
    _text(top, "on_reboot", "restart")
    _text(top, "on_crash", "destroy")
    _devices(ET.SubElement(top, "devices"), domain)
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"


def renamed(definition: ET.Element, root: str, paths: Place, uuid: UUID) -> None:
    """Change the ``definition`` of the guest whose root is ``root`` into that of a guest of its own at ``paths``.

    What somebody else changed in it stays.
    """
    texts = {"name": paths.name, "uuid": str(uuid), "os/kernel": f"{paths.boot}/kernel"}
    if definition.find("os/initrd") is not None:
        texts["os/initrd"] = f"{paths.boot}/initrd"
    texts[f"metadata/{{{NAMESPACE}}}guest/{{{NAMESPACE}}}root"] = paths.root
    for path, text in texts.items():
        element = definition.find(path)
        if element is None:
            raise VirtrootError(f"the domain has no {path}", "look at it: virsh dumpxml")
        element.text = text
    for source in definition.iterfind("devices/filesystem/source"):
        directory = source.get("dir", "")
        if directory == root or directory.startswith(f"{root}/"):
            source.set("dir", paths.root + directory[len(root) :])
    for log in definition.iterfind("devices/serial/log"):
        log.set("file", place.console_log(paths.name))
    metadata = definition.find(f"metadata/{{{NAMESPACE}}}guest")
    lower = None if metadata is None else metadata.find(f"{{{NAMESPACE}}}lower")
    if metadata is not None and lower is not None:
        # A copy of both layers lies on nothing, and shares nothing.
        metadata.remove(lower)
        for golden in metadata.findall(f"{{{NAMESPACE}}}golden"):
            metadata.remove(golden)
    # Nobody keeps a guest for another one's sake, and what libvirt makes for each domain it makes anew.
    for parent, child in (
        (f"metadata/{{{NAMESPACE}}}guest", f"{{{NAMESPACE}}}transient"),
        (".", "genid"),
        ("devices/interface", "mac"),
        ("devices/interface", "target"),
        ("devices/channel", "source"),
    ):
        for element in definition.iterfind(parent):
            for found in element.findall(child):
                element.remove(found)


@dataclass(frozen=True)
class Made:
    """What a domain says of what its root was made of, and of how that boots; see `Domain`."""

    artifact: str
    kernel: str
    initrd: str
    cmdline: str
    golden: str = ""
    lower: str = ""


def made(definition: ET.Element) -> Made:
    """Return what a guest's definition says of its root."""
    guest = f"metadata/{{{NAMESPACE}}}guest"
    names = ("artifact", "kernel", "initrd", "golden", "lower")
    values = {name: definition.findtext(f"{guest}/{{{NAMESPACE}}}{name}") or "" for name in names}
    return Made(**values, cmdline=definition.findtext("os/cmdline") or "")


def remade(definition: ET.Element, boot: str, now: Made) -> None:
    """Change a guest's definition into that of the same guest with another root; what else is in it stays."""
    guest, system = definition.find(f"metadata/{{{NAMESPACE}}}guest"), definition.find("os")
    if guest is None or system is None:
        raise VirtrootError("the domain has no metadata of virtroot's", "look at it: virsh dumpxml")
    for name in ("artifact", "kernel", "initrd", "golden", "lower"):
        _replace(guest, f"{{{NAMESPACE}}}{name}", getattr(now, name))
    _replace(system, "initrd", f"{boot}/initrd" if now.initrd else "")
    _replace(system, "cmdline", now.cmdline)


def _replace(parent: ET.Element, tag: str, text: str) -> None:
    """Let ``parent`` have the element ``tag`` with ``text``, or none where that is empty."""
    element = parent.find(tag)
    if element is None and text:
        element = ET.SubElement(parent, tag)
    if element is not None and text:
        element.text = text
    elif element is not None:
        parent.remove(element)


def _metadata(top: ET.Element, domain: Domain) -> None:
    guest = ET.SubElement(ET.SubElement(top, "metadata"), f"{{{NAMESPACE}}}guest")
    for name in ("artifact", "root", "kernel", "initrd", "transient", "golden", "lower"):
        if getattr(domain, name):
            _text(guest, f"{{{NAMESPACE}}}{name}", getattr(domain, name))


def _devices(devices: ET.Element, domain: Domain) -> None:
    mixed = domain.cache == shares.MIXED
    _tree(devices, domain, domain.root, ROOT_TAG, "auto" if mixed else domain.cache)
    if mixed:
        _tree(devices, domain, f"{domain.root}/{shares.USR}", USR_TAG, "always")
    # A share is not a root: its daemon has no use for CAP_SYS_ADMIN.
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
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="virtio")


def _tree(devices: ET.Element, domain: Domain, directory: str, tag: str, cache: str) -> None:
    """Add the device of the root, or of a part of it."""
    filesystem = ET.SubElement(devices, "filesystem", type="mount", accessmode="passthrough")
    ET.SubElement(filesystem, "driver", type="virtiofs", queue="1024")
    binary = ET.SubElement(filesystem, "binary", path=domain.wrapper.path, xattr="on")
    if cache != "auto":
        ET.SubElement(binary, "cache", mode=cache)
    ET.SubElement(filesystem, "source", dir=directory)
    ET.SubElement(filesystem, "target", dir=tag)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
