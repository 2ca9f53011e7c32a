"""What libvirt's hook does before each start of a guest: check it, mount its layers, copy its kernel."""

from __future__ import annotations

import fcntl
import os
import xml.etree.ElementTree as ET

from . import layers, metadata
from .errors import Refused
from .guest_files import check_not_replaced
from .kernel_copy import copy_kernel
from .names import OFF_LOCK, REMOVAL, SWAP

#: The directory in which libvirt's daemon keeps the definitions of running domains.
RUNNING = "/run/libvirt/qemu"


def prepare(domain_xml: str, running: str = RUNNING) -> None:
    """Prepare the start of the domain ``domain_xml``, if virtroot made it; raises `Refused` if it must not start.

    ``running`` is the directory with the definitions of running domains.
    """
    domain = ET.fromstring(domain_xml)  # noqa: S314 - it comes from libvirt, on this machine
    guest = metadata.read(domain)
    if guest is None:
        return
    if guest["lower"]:
        layers.mount(guest["root"], guest["golden"], guest["lower"])
    kernel = domain.findtext("os/kernel")
    if not kernel:
        return
    root = guest["root"]
    if domain.findtext("os/initrd") and not guest["initrd"]:
        raise Refused("the domain names an initramfs, but its metadata does not say which file it is a copy of")
    _check_no_journal(root)
    _check_off_lock(root)
    _check_not_in_use(domain, root, running)
    _check_sources(domain, root)
    copy_kernel(root, os.path.dirname(kernel), guest["kernel"], guest["initrd"])


def _check_no_journal(root: str) -> None:
    pool, name = os.path.split(root)
    if os.path.lexists(os.path.join(pool, f".{name}{REMOVAL}")):
        raise Refused(f"{root}: its removal was interrupted; ./inv start undoes that")
    if os.path.lexists(os.path.join(pool, f".{name}{SWAP}")):
        raise Refused(f"{root}: its swap with another root was interrupted; ./inv start completes or undoes it")


def _check_off_lock(root: str) -> None:
    """Raise `Refused` while a task reads or replaces the root.

    Programs like cp look up paths again and again. A guest that runs meanwhile could lead them out of its root.
    """
    name = os.path.basename(root)
    try:
        handle = os.open(OFF_LOCK.format(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"a task of virtroot works on {name}; the guest cannot start until the task ends") from None
    finally:
        os.close(handle)


def _check_not_in_use(domain: ET.Element, root: str, running: str) -> None:
    """Raise `Refused` if another domain runs on the root."""
    for name in os.listdir(running) if os.path.isdir(running) else []:
        if not name.endswith(".xml"):
            continue
        try:
            other = ET.parse(os.path.join(running, name)).find("domain")  # noqa: S314 - libvirt's own
        except (OSError, ET.ParseError):
            continue  # the domain has ended, or the file is being written
        if other is None or other.findtext("uuid") == domain.findtext("uuid"):
            continue
        if root in (source.get("dir") for source in other.iterfind("devices/filesystem/source")):
            raise Refused(f"{root}: {other.findtext('name')} runs on it, and a root is for one guest")


def _check_sources(domain: ET.Element, root: str) -> None:
    """Raise `Refused` if a directory of a device was replaced by a link."""
    for filesystem in domain.iterfind("devices/filesystem"):
        driver, source = filesystem.find("driver"), filesystem.find("source")
        path = "" if source is None else source.get("dir", "")
        if driver is None or driver.get("type") != "virtiofs" or path in ("", root):
            continue
        if path.startswith(f"{root}/"):
            check_not_replaced(root, path[len(root) + 1 :])
        elif os.path.realpath(path) != path:
            raise Refused(f"{path}: leads to {os.path.realpath(path)} now")
