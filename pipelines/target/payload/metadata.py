"""Reads virtroot's element in a domain's metadata."""

from __future__ import annotations

import xml.etree.ElementTree as ET

#: The namespace of the element.
NAMESPACE = "urn:virtroot:1"

#: The path of the element in a domain's definition.
ELEMENT = f"metadata/{{{NAMESPACE}}}guest"

#: What the element can contain, in the order in which it is written.
FIELDS = ("artifact", "root", "kernel", "initrd", "transient", "golden", "lower")


def tag(name: str) -> str:
    """Return the tag of the field ``name``."""
    return f"{{{NAMESPACE}}}{name}"


def read(domain: ET.Element) -> dict[str, str] | None:
    """Return the fields of a domain's definition, empty texts for those it lacks; None if virtroot did not make it."""
    guest = domain.find(ELEMENT)
    return None if guest is None else {name: guest.findtext(tag(name)) or "" for name in FIELDS}
