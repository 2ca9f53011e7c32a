"""What a root was made from and how it boots, as the metadata of its domain says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.artifact.build_id import BuildId
from pipelines.errors import VirtrootError
from pipelines.target.payload import metadata
from pipelines.target.payload.layers import TREE
from pipelines.target.payload.metadata import ELEMENT, tag


@dataclass(frozen=True)
class RootSource:
    """The origin of a root: of a guest, of a previous root of it, or of one that is prepared for it.

    ``artifact`` is the id of the artifact that it was made from. ``kernel`` and ``initrd`` (or empty) are the paths in
    the root that are copied to the boot directory before each start; ``cmdline`` is the kernel's command line.
    ``golden`` is the directory of the base tree that the root was cloned from, or empty, and ``lower`` the digest of
    that tree if the root is a layer on top of it.
    """

    artifact: BuildId
    kernel: str
    initrd: str
    cmdline: str
    golden: str = ""
    lower: str = ""

    @property
    def lower_tree(self) -> str:
        """The tree that the root is a layer on top of, or empty."""
        return f"{self.golden}/{TREE}" if self.lower else ""

    def to_json(self) -> str:
        """Return the source as JSON; see `from_data`."""
        return json.dumps(asdict(self))


#: The beginning of the description of a domain that virtroot wrote.
_DESCRIBED = "A guest whose root is a directory of this host, made from "

#: What the metadata of a domain says of a source.
NAMES = ("artifact", "kernel", "initrd", "golden", "lower")


def from_data(found: Mapping[str, Any]) -> RootSource:
    """Return the source that `RootSource.to_json` wrote as JSON; raises KeyError or TypeError for anything else."""
    return RootSource(**{**found, "artifact": BuildId(found["artifact"])})


def read(definition: ET.Element) -> RootSource:
    """Return what a guest's definition says of its root."""
    values = metadata.read(definition) or {}
    artifact, *others = (values.get(name, "") for name in NAMES)
    kernel, initrd, golden, lower = others
    return RootSource(BuildId(artifact), kernel, initrd, definition.findtext("os/cmdline") or "", golden, lower)


def write(definition: ET.Element, boot: str, source: RootSource) -> None:
    """Change a guest's definition for a root with another ``source``; everything else in it stays."""
    guest, system = definition.find(ELEMENT), definition.find("os")
    if guest is None or system is None:
        raise VirtrootError("the domain has no virtroot metadata", "check its definition: virsh dumpxml")
    for name in NAMES:
        _set_text(guest, tag(name), getattr(source, name))
    described = definition.find("description")
    # A description that the user wrote stays.
    if described is not None and (described.text or "").startswith(_DESCRIBED):
        described.text = describe(source)
    _set_text(system, "initrd", f"{boot}/initrd" if source.initrd else "")
    _set_text(system, "cmdline", source.cmdline)


def describe(source: RootSource) -> str:
    """Return the description of a domain, for people."""
    return f"{_DESCRIBED}{source.artifact}."


def _set_text(parent: ET.Element, name: str, text: str) -> None:
    """Set the text of the element ``name`` of ``parent``; remove the element if ``text`` is empty."""
    element = parent.find(name)
    if element is None and text:
        element = ET.SubElement(parent, name)
    if element is not None and text:
        element.text = text
    elif element is not None:
        parent.remove(element)
