"""Time how long a guest is off for an upgrade, by each way there is to make its root, beside doing it by hand.

Run from the checkout, as root: .venv/bin/python -m benchmarks.upgrade [ROUNDS] [ARTIFACT]
Without an artifact: recipes/debian.yaml is built. The guest moves to the same build again, which is the same work. By
hand means: shut it down, unpack the tarball, carry /home and /etc over, put the root in place, boot. Medians of the
seconds from the order to shut down until the guest's agent answers; the first round is not counted.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import docker

from pipelines import setup, start
from pipelines.artifact.artifact import Artifact
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.engine.engine import LABEL
from pipelines.guest import guest as guests
from pipelines.guest.install_options import InstallOptions
from pipelines.host import process
from pipelines.install import install
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import embedded
from pipelines.settings import CHECKOUT, Settings

_NAME = "benchmark-upgrade"
_SIZE = 12 << 30

#: The ways that are measured on each file system.
_WAYS = {"btrfs": ("snapshot", "reflink"), "xfs": ("reflink", "overlay", "copy")}
_PEER = "by hand"

_BY_HAND = """
mkdir "$1.new"
tar -x -p --numeric-owner --xattrs --acls --zstd -f - -C "$1.new"
cp --archive -T -- "$1/home" "$1.new/home"
cp --archive -T -- "$1/etc" "$1.new/etc"
mv -T -- "$1" "$1.old"
mv -T -- "$1.new" "$1"
rm -rf -- "$1.old"
"""

_OFF = re.compile(rb"is off after ([0-9.]+) s")
_UP = re.compile(rb"is up after ([0-9.]+) s")


def main(rounds: int, artifact: str) -> None:
    """Upgrade a guest ``rounds`` times by each way and the peer, in turn, on each file system; print the table."""
    setup.ensure_programs("mkfs.btrfs", "mkfs.xfs")
    with tempfile.TemporaryDirectory() as scratch:
        settings = replace(Settings(), output=f"{scratch}/output", connect="embedded", embedded="virtroot-benchmark")
        made = Artifact(Path(artifact)) if artifact else build(inputs.find("debian"), CommandContext(settings))
        for kind, ways in _WAYS.items():
            with _pool(kind, Path(scratch), settings):
                _table(kind, _measured(ways, made, rounds, settings))


def _table(kind: str, taken: dict[str, list[float]]) -> None:
    peer = statistics.median(taken[_PEER])
    for way, seconds in taken.items():
        median = statistics.median(seconds)
        print(f"{kind:<6} {way:<10} {median:6.1f} s off   {median / peer:.2f} x {_PEER}")


@contextmanager
def _pool(kind: str, scratch: Path, settings: Settings) -> Iterator[None]:
    """Give the hypervisor a pool on a file system of that kind, on a file of this machine's."""
    embedded.stop(settings, with_volumes=True)
    image = scratch / f"{kind}.image"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    process.run([f"mkfs.{kind}", "-q", str(image)])
    device = process.run(["losetup", "--find", "--show", str(image)]).text
    try:
        options = {"type": kind, "device": device}
        docker.from_env().volumes.create(
            f"{settings.embedded}-state", driver="local", driver_opts=options, labels={LABEL: "volume"}
        )
        yield
    finally:
        embedded.stop(settings, with_volumes=True)
        process.run(["losetup", "--detach", device])
        image.unlink()


def _measured(ways: tuple[str, ...], made: Artifact, rounds: int, settings: Settings) -> dict[str, list[float]]:
    install(_NAME, made, InstallOptions(clone="copy"), CommandContext(settings))
    start.start(_NAME, CommandContext(settings))
    taken: dict[str, list[float]] = {way: [] for way in (*ways, _PEER)}
    for number in range(rounds + 1):
        for way, seconds in taken.items():
            off = _by_hand(made, settings) if way == _PEER else _upgraded(way, made, settings)
            if number:
                seconds.append(off)
    return taken


def _upgraded(way: str, made: Artifact, settings: Settings) -> float:
    """Return the seconds from the order to shut down until the guest is up."""
    argv = [str(CHECKOUT / "inv"), "upgrade", _NAME, "--to", str(made.directory), "--clone", way, "--restart"]
    names = {"OUTPUT": settings.output, "EMBEDDED": settings.embedded, "CONNECT": settings.connect}
    environment = {**os.environ, **{f"INVOKE_VIRTROOT_{name}": value for name, value in names.items()}}
    off = up = 0.0
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as task:
        for line in task.stderr or ():
            if found := _OFF.search(line):
                off = time.monotonic() - float(found[1])
            elif _UP.search(line):
                up = time.monotonic()
    if task.returncode or not off or not up:
        raise subprocess.CalledProcessError(task.returncode, argv)
    return up - off


def _by_hand(made: Artifact, settings: Settings) -> float:
    guest = guests.get(connecting.connect(settings), _NAME)
    begin = time.monotonic()
    start.stop(_NAME, CommandContext(settings))
    with made.tarball.open("rb") as content:
        guest.target.run(["sh", "-ec", _BY_HAND, "by-hand", guest.root], stdin=content)
    start.start(_NAME, CommandContext(settings))
    return time.monotonic() - begin


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2] if len(sys.argv) > 2 else "")
