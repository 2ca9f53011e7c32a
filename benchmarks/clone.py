"""Make roots of one golden tree on btrfs and xfs by each way there is; print time, space and ratios.

Run from the checkout, as root: .venv/bin/python -m benchmarks.clone [ROUNDS] [ARTIFACT]
Without an artifact: recipes/debian.yaml is built. The file systems are on files of this machine's disk, mounted for the
run. Medians, warm; the space is what the file system holds more afterwards. Peers: GNU tar, bsdtar and cp.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path

from pipelines import setup
from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.host import process
from pipelines.pool import clone_methods
from pipelines.pool.base_trees import BaseTree
from pipelines.settings import Settings
from pipelines.target import programs, subvolume
from pipelines.target.target import Local

_SIZE = 24 << 30

#: Of each way of ours, the peers that it is compared with.
_PEERS = {
    "unpacked": ("GNU tar", "bsdtar"),
    "snapshot": (),
    "reflink": ("cp --reflink",),
    "copy": ("cp",),
    "overlay": (),
}

_TAR = ("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--acls", "--zstd", "-f", "-", "-C")
_BSDTAR = ("bsdtar", "-x", "-p", "--numeric-owner", "--xattrs", "--acls", "-f", "-", "-C")


#: Makes a root at the path it is given.
Way = Callable[[str], object]


@dataclass(frozen=True)
class Cost:
    """What one root cost: seconds, and bytes of its file system."""

    seconds: float
    added: int


def main(rounds: int, artifact: str) -> None:
    """Make a root by each way and each peer ``rounds`` times, in turn, on each file system."""
    setup.ensure_programs("mkfs.btrfs", "mkfs.xfs", "bsdtar")
    with tempfile.TemporaryDirectory() as scratch:
        made = (
            Artifact(Path(artifact))
            if artifact
            else build(inputs.find("debian"), CommandContext(changed(Settings(), output=f"{scratch}/output")))
        )
        for kind in ("btrfs", "xfs"):
            with _mounted(kind, Path(scratch)) as pool:
                _table(kind, _measured(pool, _ways(kind, pool, made), rounds))


def _table(kind: str, costs: dict[str, Cost]) -> None:
    for name, cost in costs.items():
        ratios = [f"{cost.seconds / costs[peer].seconds:.2f} x {peer}" for peer in _PEERS.get(name, ())]
        space = f"{cost.added / 2**20:8.1f} MiB"
        print(f"{kind:<6} {name:<14} {cost.seconds * 1000:7.0f} ms {space}   {', '.join(ratios)}".rstrip())


@contextmanager
def _mounted(kind: str, scratch: Path) -> Iterator[Path]:
    image, pool = scratch / f"{kind}.image", scratch / kind
    with image.open("wb") as file:
        file.truncate(_SIZE)
    pool.mkdir()
    process.run([f"mkfs.{kind}", "-q", str(image)])
    process.run(["mount", "-o", "loop", str(image), str(pool)])
    try:
        yield pool
    finally:
        process.run(["umount", str(pool)])
        image.unlink()


def _ways(kind: str, pool: Path, artifact: Artifact) -> dict[str, Way]:
    """Unpack the golden tree and return the ways to make a root of it, ours and others', by name."""
    target, tree = Local(), str(pool / "golden" / "root")

    def unpack(root: str) -> None:
        subvolume.make(target, root)
        with artifact.tarball.open("rb") as content:
            target.run(archive.unpack_argv(root), stdin=content)

    def plain(root: str, argv: tuple[str, ...]) -> None:
        Path(root).mkdir()
        with artifact.tarball.open("rb") as content:
            target.run([*argv, root], stdin=content)

    def cp(root: str, reflink: str) -> None:
        target.run(["cp", "--archive", f"--reflink={reflink}", tree, root])

    (pool / "golden").mkdir()
    unpack(tree)
    subvolume.close(target, tree)
    golden = BaseTree(str(pool / "golden"), programs.digest(target, tree))
    ways: dict[str, Way] = {
        "GNU tar": lambda root: plain(root, _TAR),
        "bsdtar": lambda root: plain(root, _BSDTAR),
        "unpacked": unpack,
        "cp": lambda root: cp(root, "never"),
        "copy": lambda root: clone_methods.clone(target, "copy", tree, root),
        "cp --reflink": lambda root: cp(root, "always"),
        "reflink": lambda root: clone_methods.clone(target, "reflink", tree, root),
    }
    if kind == "btrfs":
        return {**ways, "snapshot": lambda root: clone_methods.clone(target, "snapshot", tree, root)}
    return {**ways, "overlay": lambda root: clone_methods.make_layer(target, golden, root)}


def _measured(pool: Path, ways: dict[str, Way], rounds: int) -> dict[str, Cost]:
    """Use each way in turn, ``rounds`` times after one that warms the caches; return the medians."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        # No way follows the same one each time: what that one left to be written would count for this one.
        turn = list(ways.items())[:: -1 if number % 2 else 1]
        for name, way in turn[number % len(turn) :] + turn[: number % len(turn)]:
            root = f"{pool}/root.{name.replace(' ', '')}.{number}"
            before, begin = _used(pool), time.perf_counter()
            way(root)
            seconds = time.perf_counter() - begin
            costs[name].append(Cost(seconds, _used(pool) - before))
            if name == "overlay":
                programs.unmount_layers(Local(), root)
    return {
        name: Cost(
            statistics.median(each.seconds for each in found[1:]),
            int(statistics.median(each.added for each in found[1:])),
        )
        for name, found in costs.items()
    }


def _used(pool: Path) -> int:
    """Return how many bytes the file system holds, everything written."""
    # Also what is below the loop device: the next way would wait for it.
    process.run(["sync"])
    return int(process.run(["df", "--block-size=1", "--output=used", str(pool)]).text.split()[1])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "")
