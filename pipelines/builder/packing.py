"""The output of a builder: the tarball, and the facts about the root for the manifest."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.artifact import archive
from pipelines.artifact.manifest import Package, Rootfs
from pipelines.builder.container import Builder
from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.recipe.distros import Distro
from pipelines.recipe.stage import ROOT
from pipelines.text import split_fields, split_lines


def list_packages(builder: Builder, distro: Distro) -> tuple[Package, ...]:
    """Return the packages that are installed in the root, sorted by name."""
    # The query runs inside the root, where a recipe's commands may have replaced its program. So it has limits.
    query = builder.run(("chroot", ROOT, *distro.packages_query), limit=16 << 20, timeout=300)
    pairs = sorted(split_fields(line, 2) for line in split_lines(query.text))
    if any(len(pair) != 2 for pair in pairs):
        raise VirtrootError("the root's package manager does not list packages", "check the recipe's run commands")
    return tuple(Package(name=name, version=version) for name, version in pairs)


def pack(builder: Builder, tarball: Path, epoch: int, *, sparse: bool = False) -> Rootfs:
    """Write the root as ``tarball``, and return its measures; see `archive.pack_argv` for the other arguments."""
    digest, size = hashlib.sha256(), 0
    with private.create(tarball) as output:

        def keep(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)
            digest.update(chunk)
            output.write(chunk)

        with ThreadPoolExecutor(1) as background:
            measured = background.submit(_measure, builder)
            builder.run(archive.pack_argv(ROOT, epoch, sparse=sparse), stdout=keep)
    used, entries = measured.result()
    return Rootfs(sha256=digest.hexdigest(), size=size, unpacked_size=used, entries=entries)


def _measure(builder: Builder) -> tuple[int, int]:
    """Return the root's disk usage in bytes, and its number of entries."""
    used = split_fields(builder.run(["du", "--summarize", "--block-size=1", ROOT]).text)[0]
    return int(used), len(builder.run(["find", ROOT, "-printf", "."]).stdout)
