"""The definition of a clone's domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from uuid import UUID

from pipelines.guest.domain import rename_definition
from pipelines.pool.place import Place
from tests.support.domains import make_definition
from tests.support.planted import root

__all__ = ["root"]


def test_the_definition_of_a_clone_keeps_additions_and_no_path_or_address_of_its_source(
    root: Path, tmp_path: Path
) -> None:
    definition = ET.fromstring(make_definition(root, tmp_path / "virtroot.web"))  # noqa: S314 - made here
    devices = definition.find("devices")
    assert devices is not None
    ET.SubElement(ET.SubElement(devices, "interface"), "mac", address="52:54:00:00:00:01")
    ET.SubElement(definition, "description").text = "mine"
    place = Place("/pool", "web2")
    rename_definition(definition, str(root), place, UUID(int=7))
    text = ET.tostring(definition, encoding="unicode")
    assert "52:54:00" not in text
    assert str(root) not in text
    assert "<description>mine</description>" in text
    assert definition.findtext("uuid") == str(UUID(int=7))
    assert [definition.findtext(f"os/{name}") for name in ("kernel", "initrd")] == [
        f"{place.boot}/kernel",
        f"{place.boot}/initrd",
    ]
    log = definition.find("devices/serial/log")
    assert log is not None
    assert log.get("file") == "/var/log/libvirt/qemu/web2@console.log"
