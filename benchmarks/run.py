"""Time ./inv run from the command to its guest's first output and to the end, beside the boot of a guest that is there.

Run from the checkout: .venv/bin/python -m benchmarks.run [RUNS]
The root is that of recipes/debian.yaml, the pool the embedded hypervisor's; medians after one run that unpacks the
golden tree where the pool has such.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from pipelines import start
from pipelines.artifact.artifact import Artifact
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.libvirt import embedded
from pipelines.settings import CHECKOUT, Settings

_NAME = "benchmark-run"


def main(runs: int) -> None:
    """Run and boot ``runs`` times in turn; print a line for each of the two times, with its ratio to the boot."""
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output, connect="embedded", embedded="virtroot-benchmark")
        try:
            artifact = build(inputs.find("debian"), CommandContext(settings))
            install(_NAME, artifact, InstallOptions(cache="always"), CommandContext(settings))
            start.start(_NAME, CommandContext(settings))
            start.stop(_NAME, CommandContext(settings))
            begun, ended, booted = [], [], []
            for number in range(runs + 1):
                first, whole = _run(artifact, settings)
                boot = start.start(_NAME, CommandContext(settings))
                start.stop(_NAME, CommandContext(settings))
                if number:
                    begun.append(first)
                    ended.append(whole)
                    booted.append(boot)
        finally:
            embedded.stop(settings, with_volumes=True)
    peer = statistics.median(booted)
    for what, taken in (("boot alone", booted), ("run, first output", begun), ("run, thrown away", ended)):
        median = statistics.median(taken)
        print(f"{what:<20} {median:6.1f} s   {median / peer:.2f} x the boot alone")


def _run(artifact: Artifact, settings: Settings) -> tuple[float, float]:
    """Return the seconds from the command to the first output in its guest, and to the command's end."""
    argv = [str(CHECKOUT / "inv"), "run", "--artifact", str(artifact.directory), "--", "echo", "up"]
    names = {"OUTPUT": settings.output, "EMBEDDED": settings.embedded, "CONNECT": settings.connect}
    environment = {**os.environ, **{f"INVOKE_VIRTROOT_{name}": value for name, value in names.items()}}
    begin = time.monotonic()
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as task:
        said = task.stdout.read(1) if task.stdout else b""
        first = time.monotonic() - begin
    if task.returncode or said != b"u":
        raise subprocess.CalledProcessError(task.returncode, argv)
    return first, time.monotonic() - begin


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
