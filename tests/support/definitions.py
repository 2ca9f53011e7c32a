"""Reads a domain's definition, and replaces a piece of one in libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pipelines.libvirt.hypervisor import Hypervisor


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own


def change(hypervisor: Hypervisor, name: str, old: str, new: str) -> None:
    """Replace a piece of a domain's definition, which must be there once."""
    definition = hypervisor.virsh("dumpxml", "--inactive", name).text
    assert definition.count(old) == 1
    hypervisor.virsh("define", "/dev/stdin", stdin=definition.replace(old, new).encode())
