"""Build the same packages with virtroot and with plain tools, warm caches, and print wall times and ratios.

Run from the checkout: .venv/bin/python -m benchmarks.build [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

from pipelines.artifact.artifact import Artifact
from pipelines.build import build
from pipelines.builder import container, inputs
from pipelines.builder.container import builder
from pipelines.host import engine as engines
from pipelines.settings import Settings

#: What a user types for the same packages; the cache keeps downloads out of the comparison, as virtroot's does.
_DEBOOTSTRAP = """
mkdir -p /var/cache/virtroot/plain
debootstrap --variant=minbase --cache-dir=/var/cache/virtroot/plain --include="$1" trixie /srv/root >/dev/null
tar -C /srv/root --xattrs --acls --numeric-owner -I 'zstd -T0 -3' -cf /srv/root.tar.zst .
rm -rf /srv/root
"""
_MMDEBSTRAP = """
cache=/var/cache/virtroot/mm; mkdir -p $cache
mmdebstrap --mode=root --variant=minbase --include="$1" --skip=download/empty,cleanup/apt/cache \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -n '$cache'/*.deb "$1/var/cache/apt/archives/" || true' \
    --customize-hook='cp -u "$1"/var/cache/apt/archives/*.deb '$cache'/; rm -f "$1"/var/cache/apt/archives/*.deb' \
    trixie /srv/root.tar.zst >/dev/null 2>&1
"""


def main(rounds: int) -> None:
    """Run every contender ``rounds`` times after one run that warms the caches; print medians."""
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output)
        contenders: dict[str, Callable[[], object]] = {
            "debootstrap + tar": lambda: _plain(_DEBOOTSTRAP, settings),
            "virtroot, debootstrap, no base cache": lambda: _virtroot("debootstrap", settings, fresh=True),
            "virtroot, debootstrap": lambda: _virtroot("debootstrap", settings),
            "mmdebstrap to tar.zst": lambda: _plain(_MMDEBSTRAP, settings),
            "virtroot, mmdebstrap, no base cache": lambda: _virtroot("mmdebstrap", settings, fresh=True),
            "virtroot, mmdebstrap": lambda: _virtroot("mmdebstrap", settings),
        }
        times = {}
        for name, contender in contenders.items():
            contender()
            times[name] = statistics.median(seconds(contender) for _ in range(rounds))
    for name, taken in times.items():
        peer = "mmdebstrap to tar.zst" if "mmdebstrap" in name else "debootstrap + tar"
        print(f"{name:<40} {taken:6.1f} s   {taken / times[peer]:.2f} x {peer}")


def seconds(contender: Callable[[], object]) -> float:
    """Return the wall time of one call, in seconds."""
    begin = time.monotonic()
    contender()
    return time.monotonic() - begin


def _virtroot(bootstrap: str, settings: Settings, *, fresh: bool = False) -> Artifact:
    return build(inputs.find("debian", overrides={"bootstrap": bootstrap}), settings, fresh=fresh)


def _plain(script: str, settings: Settings) -> None:
    planned = inputs.find("debian")
    packages = (planned.recipe.kernel, *planned.plan.generator.packages, *planned.recipe.packages)
    engine = engines.connect()
    image, _ = container.image(engine, planned.plan.distro, settings)
    on_disk = replace(settings, workspace="disk")
    with builder(engine, image, "benchmark", on_disk, "benchmark", cache="virtroot-cache-benchmark") as worker:
        worker.run(["sh", "-ec", script, "plain", ",".join(packages)])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
