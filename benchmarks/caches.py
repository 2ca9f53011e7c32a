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
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import embedded
from pipelines.settings import Settings
from pipelines.target.target import Target

#: Seconds after which a boot has failed.
_PATIENCE = 150

_PEER = "ext4 on virtio-blk"

_IMAGE = "/var/lib/libvirt/images/benchmark-ext4.img"

# The fstab is the disk's; nothing else of the tree differs. The embedded hypervisor needs no ext4 itself.
_MAKE_DISK = """
command -v mkfs.ext4 > /dev/null || { apt-get -q update; apt-get -q install -y --no-install-recommends e2fsprogs; } >&2
mkdir -p "${2%/*}"
printf '/dev/vda / ext4 defaults 0 0\\n' > "$1/etc/fstab"
truncate -s 2G "$2"
mkfs.ext4 -q -F -d "$1" "$2"
"""


@dataclass
class Contender:
    """One way to boot the tree: its guest, the seconds that its boots took, and how many did not come up."""

    guest: Guest
    seconds: list[float]
    failed: int = 0


def main(boots: int) -> None:
    """Boot each ``boots`` times in turn, after one boot that makes what is made once; print medians and ratios."""
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output, connect="embedded", embedded="virtroot-benchmark")
        try:
            contenders = _contenders(settings)
            for number in range(boots + 1):
                for contender in contenders.values():
                    taken = _boot(contender.guest, settings)
                    if taken is None:
                        contender.failed += 1
                    elif number:
                        contender.seconds.append(taken)
            _table(contenders)
        finally:
            embedded.stop(settings, with_volumes=True)


def _table(contenders: dict[str, Contender]) -> None:
    peer = statistics.median(contenders[_PEER].seconds)
    for name, contender in contenders.items():
        taken = contender.seconds
        median = statistics.median(taken)
        spread = f"min {min(taken):5.1f}  median {median:5.1f}  max {max(taken):5.1f} s"
        failed = f"   {contender.failed} did not come up" if contender.failed else ""
        print(f"{name:<24} {spread}   {median / peer:.2f} x {_PEER}{failed}")


def _contenders(settings: Settings) -> dict[str, Contender]:
    made = build(inputs.find("debian"), CommandContext(settings))
    bare = build(inputs.find("debian", overrides={"generator": "none"}), CommandContext(settings))
    ways = {f"cache {cache}": (made, cache) for cache in ("auto", "mixed", "always")}
    ways["cache mixed, none"] = (bare, "mixed")
    found = {name: Contender(_installed(*way, settings), []) for name, way in ways.items()}
    return {_PEER: Contender(_on_a_disk(_installed(made, "auto", settings)), []), **found}


def _installed(artifact: Artifact, cache: str, settings: Settings) -> Guest:
    name = f"benchmark-{uuid4().hex[:8]}"
    install(name, artifact, InstallOptions(cache=cache), CommandContext(settings))
    return guests.get(connecting.connect(settings), name)


def _on_a_disk(guest: Guest) -> Guest:
    """Define a domain like the guest's whose root is a disk with the same tree."""
    make_disk(guest.target, guest.root, _IMAGE)
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


def make_disk(target: Target, root: str, image: str) -> None:
    """Make the file ``image`` with an ext4 file system that holds the tree ``root``, whose fstab becomes the disk's."""
    target.run(["sh", "-ec", _MAKE_DISK, "make-disk", root, image])


def _boot(guest: Guest, settings: Settings) -> float | None:
    """Return the seconds of a boot; None for one that did not come up, as software emulation has it now and then."""
    begin = time.monotonic()
    guest.hypervisor.virsh("start", guest.uuid)
    try:
        guest.wait(_PATIENCE)
    except VirtrootError as error:
        print(error.what, file=sys.stderr)
        guest.stop(settings.timeout, force=True)
        return None
    taken = time.monotonic() - begin
    guest.stop(settings.timeout)
    return taken


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
