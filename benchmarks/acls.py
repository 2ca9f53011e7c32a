"""Boot one guest with and without POSIX ACLs in turn, and print what they cost.

Run from the checkout: .venv/bin/python -m benchmarks.acls [BOOTS] [CACHE]
CACHE is auto, mixed, always or none. The guest of recipes/debian.yaml without an initramfs is used.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import replace

from pipelines import start
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.guest import guest as guests
from pipelines.guest import virtiofsd_wrapper
from pipelines.guest.guest import Guest
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import embedded
from pipelines.settings import Settings

_NAME = "benchmark-acls"

#: Kernel releases by which the wrapper with ACLs, and the one without, is chosen.
_RELEASES = {"without ACLs": "5.10", "with ACLs": "6.12"}


def main(boots: int, cache: str) -> None:
    """Boot each ``boots`` times in turn, after one boot that makes what is made once; print medians and the ratio."""
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output, connect="embedded", embedded="virtroot-benchmark")
        try:
            artifact = build(inputs.find("debian", overrides={"generator": "none"}), CommandContext(settings))
            install(_NAME, artifact, InstallOptions(cache=cache), CommandContext(settings))
            guest = guests.get(connecting.connect(settings), _NAME)
            _boot(guest, settings, "6.12")
            taken: dict[str, list[float]] = {name: [] for name in _RELEASES}
            for _ in range(boots):
                for name, release in _RELEASES.items():
                    taken[name].append(_boot(guest, settings, release))
        finally:
            embedded.stop(settings, with_volumes=True)
    base = statistics.median(taken["without ACLs"])
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        spread = f"min {min(seconds):5.1f}  median {median:5.1f}  max {max(seconds):5.1f} s"
        print(f"{name:<12}  cache {cache}  {spread}   {median / base:.2f}")


def _boot(guest: Guest, settings: Settings, release: str) -> float:
    """Boot the guest with the wrapper for a kernel of that ``release``; return the seconds until its agent answered."""
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        raise AssertionError(guest.name)
    virtiofsd_wrapper.update(definition, release)
    virtiofsd_wrapper.install(guest.target, definition)
    guest.hypervisor.virsh("define", "/dev/stdin", stdin=ET.tostring(definition))
    seconds = start.start(_NAME, CommandContext(settings))
    start.stop(_NAME, CommandContext(settings))
    return seconds


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "always")
