"""Boot one root with each cache, and without an initramfs, in turn, beside the same tree on ext4 on a virtio disk.

Run from the checkout: .venv/bin/python -m benchmarks.boots BOOTS caches
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from uuid import uuid4

from pipelines.artifact.artifact import Artifact
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.install import Wishes, install
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import embedded
from pipelines.settings import Settings

_PEER = "ext4 on virtio-blk"

_IMAGE = "/var/lib/libvirt/images/benchmark-ext4.img"

# The fstab is the disk's; nothing else of the tree differs.
_MAKE_DISK = """
mkdir -p "${2%/*}"
printf '/dev/vda / ext4 defaults 0 0\\n' > "$1/etc/fstab"
truncate -s 2G "$2"
mkfs.ext4 -q -F -d "$1" "$2"
"""


@dataclass
class Contender:
    """One way to boot the tree: its guest, and the seconds that its boots took."""

    guest: Guest
    seconds: list[float]


def main(boots: int) -> None:
    """Boot each ``boots`` times in turn, after one boot that makes what is made once; print medians and ratios."""
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output, connect="embedded", embedded="virtroot-benchmark")
        try:
            contenders = _contenders(settings)
            for number in range(boots + 1):
                for contender in contenders.values():
                    taken = _boot(contender.guest, settings)
                    contender.seconds += [taken] if number else []
            _table(contenders)
        finally:
            embedded.stop(settings, with_volumes=True)


def _table(contenders: dict[str, Contender]) -> None:
    peer = statistics.median(contenders[_PEER].seconds)
    for name, contender in contenders.items():
        taken = contender.seconds
        median = statistics.median(taken)
        spread = f"min {min(taken):5.1f}  median {median:5.1f}  max {max(taken):5.1f} s"
        print(f"{name:<24} {spread}   {median / peer:.2f} x {_PEER}")


def _contenders(settings: Settings) -> dict[str, Contender]:
    made = build(inputs.find("debian"), settings)
    bare = build(inputs.find("debian", overrides={"generator": "none"}), settings)
    ways = {f"cache {cache}": (made, cache) for cache in ("auto", "mixed", "always")}
    ways["cache mixed, none"] = (bare, "mixed")
    found = {name: Contender(_installed(*way, settings), []) for name, way in ways.items()}
    return {_PEER: Contender(_on_a_disk(_installed(made, "auto", settings)), []), **found}


def _installed(artifact: Artifact, cache: str, settings: Settings) -> Guest:
    name = f"benchmark-{uuid4().hex[:8]}"
    install(name, artifact, Wishes(cache=cache), settings)
    return guests.find(connecting.connect(settings), name)


def _on_a_disk(guest: Guest) -> Guest:
    """Define a domain like the guest's whose root is a disk with the same tree."""
    guest.target.run(["sh", "-ec", _MAKE_DISK, "make-disk", guest.root, _IMAGE])
    definition = guest.hypervisor.xml(guest.uuid)
    devices = None if definition is None else definition.find("devices")
    command_line = None if definition is None else definition.find("os/cmdline")
    metadata = None if definition is None else definition.find("metadata")
    if definition is None or devices is None or command_line is None or metadata is None:
        raise AssertionError(guest.name)
    definition.remove(metadata)
    for filesystem in devices.findall("filesystem"):
        devices.remove(filesystem)
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="raw")
    ET.SubElement(disk, "source", file=_IMAGE)
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    command_line.text = "root=/dev/vda rootfstype=ext4 rw console=ttyS0"
    guest.hypervisor.virsh("define", "/dev/stdin", stdin=ET.tostring(definition))
    return guest


def _boot(guest: Guest, settings: Settings) -> float:
    begin = time.monotonic()
    guest.hypervisor.virsh("start", guest.uuid)
    guest.wait(settings.timeout)
    taken = time.monotonic() - begin
    guest.stop(settings.timeout)
    return taken


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
