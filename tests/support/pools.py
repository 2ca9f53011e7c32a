"""Pools on file systems of a given kind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import docker

from pipelines.engine.engine import LABEL
from tests.conftest import Virtroot, clear


@contextmanager
def pool_on(kind: str, inv: Virtroot, directory: Path) -> Iterator[Virtroot]:
    """Give a hypervisor of its own whose state, with the pool in it, is on a file system of that kind."""
    own = replace(inv, embedded=f"{inv.embedded}-{kind}")
    clear(own)
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(4 << 30)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
    loop = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
    device = loop.stdout.strip()
    try:
        options = {"type": kind, "device": device}
        labels = {LABEL: "volume"}
        docker.from_env().volumes.create(f"{own.embedded}-state", driver="local", driver_opts=options, labels=labels)
        yield own
    finally:
        clear(own)
        subprocess.run(["losetup", "--detach", device], check=True)
