"""Time a night in which nothing changed, over several recipes, against building each of them once.

Run from the checkout: .venv/bin/python -m benchmarks.night [RECIPES]
The recipes begin alike, so that only the first one is built from nothing. No guest boots: each root is promoted as if
one had, and what is timed is the whole command after that, ./inv nightly, with the peak of its memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import RunRecord
from pipelines.artifact.manifest import Verdict
from pipelines.artifact.store import Store
from pipelines.build import build
from pipelines.builder import container, inputs
from pipelines.context import CommandContext
from pipelines.engine import engine as engines
from pipelines.host import process
from pipelines.settings import CHECKOUT, Settings

_RECIPE = """distro: debian
bootstrap: mmdebstrap
packages: [systemd-sysv, udev, dbus, openssh-server, qemu-guest-agent]
run: ["echo {number} > /etc/motd"]
"""


def main(count: int) -> None:
    """Build ``count`` recipes, run a night over them, and print a line for each of the two."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = replace(Settings(), output=f"{scratch}/output")
        sources = [Path(scratch) / f"benchmark-night-{number}.yaml" for number in range(count)]
        begin = time.monotonic()
        for number, source in enumerate(sources):
            source.write_text(_RECIPE.format(number=number))
            _promote(build(inputs.find(recipe=str(source)), CommandContext(settings)), settings)
        built = time.monotonic() - begin
        options = [word for source in sources for word in ("--recipe", str(source))]
        begin = time.monotonic()
        night = process.run(
            [str(CHECKOUT / "inv"), "nightly", *options], env={"INVOKE_VIRTROOT_OUTPUT": settings.output}
        )
        took = time.monotonic() - begin
        unchanged = night.stderr.decode().count("nothing changed, golden root")
        engines.connect().remove_volume(container.get_cache_volume(inputs.find(recipe=str(sources[0])), settings))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{count} recipes built, begun alike   {built:6.1f} s   1")
    print(f"a night over them, {unchanged} unchanged   {took:6.1f} s   {took / built:.2f}   peak {peak} MiB")


def _promote(artifact: Artifact, settings: Settings) -> None:
    """Do what a night does after a boot that went well."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    artifact.judge("guest", Verdict(passed=True, tests=1, time=now, seconds=0))
    store, name = Store(settings.output_dir), artifact.manifest.name
    with store.lock(name):
        store.golden(name).promote(Artifact(artifact.directory))
    store.history(name).append(RunRecord(recipe=name, time=now, seconds=0, outcome="promoted", artifact=artifact.id))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
