"""Build the same packages with virtroot and with plain tools, package caches warm; print wall times and ratios.

Run from the checkout: .venv/bin/python -m benchmarks.build [ROUNDS]

Each tool makes a zstd-packed tar. virtroot runs as it is typed, whole commands; it works on tmpfs where memory allows.
Not equal: virtroot asks the mirror whether it changed, inspects the root and can give the same bytes again; mkosi's
incremental run takes yesterday's packages without asking; debootstrap and mmdebstrap make no initramfs that virtiofs
needs.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.builder import container, inputs
from pipelines.builder.mirror_state import Asker
from pipelines.builder.reuse import find_unchanged
from pipelines.engine import engine as engines
from pipelines.engine.engine import Container
from pipelines.host import process
from pipelines.settings import CHECKOUT, Settings

#: What a user types for the same packages: the directory to work in, then the packages with commas between them.
_DEBOOTSTRAP = """
work=$1/debootstrap; mkdir -p "$1/debs" "$work"
debootstrap --variant=minbase --cache-dir="$1/debs" --include="$2" trixie "$work/root" >/dev/null
tar -C "$work/root" --xattrs --acls --numeric-owner -I 'zstd -T0 -3' -cf "$work/root.tar.zst" .
rm -rf "$work"
"""
_MMDEBSTRAP = """
cache=$1/mm; mkdir -p "$cache" "$1/work"; export TMPDIR=$1/work
mmdebstrap --mode=root --variant=minbase --include="$2" --skip=download/empty,cleanup/apt/cache \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -n '"$cache"'/*.deb "$1/var/cache/apt/archives/" || true' \
    --customize-hook='cp -u "$1"/var/cache/apt/archives/*.deb '"$cache"'/; rm -f "$1"/var/cache/apt/archives/*.deb' \
    trixie "$1/work/root.tar.zst" >/dev/null 2>&1
"""
_MKOSI = """
cd "$1"; . /usr/local/lib/virtroot/mirrors; find_mirrors; mkdir -p mkosi out cached packages scratch; cd mkosi
cat > mkosi.conf << CONFIG
[Distribution]
Distribution=debian
Release=trixie
LocalMirror=$main
[Output]
Format=tar
CompressOutput=zstd
OutputDirectory=$1/out
[Build]
CacheDirectory=$1/cached
PackageCacheDirectory=$1/packages
WorkspaceDirectory=$1/scratch
[Content]
Bootable=no
Packages=$2
CONFIG
shift 2; mkosi "$@" build >/dev/null 2>&1
"""
_INSTALL_MKOSI = "apt-get -qq update; apt-get -qq install --yes --no-install-recommends mkosi >/dev/null 2>&1"

_FAST, _DISK = "/fast", "/srv/disk"

#: Small packages, one of which is added in each round.
_MORE = ("nano", "less", "tree", "lsof", "file")

_RECIPE = """
distro: debian
release: trixie
bootstrap: {bootstrap}
packages: [{packages}]
{more}
"""

#: The rows of virtroot, and which others each is compared with.
ROWS = {
    "virtroot, debootstrap, --no-cache": ("debootstrap, tmpfs", "debootstrap, disk"),
    "virtroot, mmdebstrap, --no-cache": ("mmdebstrap, tmpfs", "mmdebstrap, disk", "mkosi, tmpfs"),
    "virtroot, mmdebstrap, cache empty": ("mmdebstrap, tmpfs", "mmdebstrap, disk"),
    "virtroot, one package added": ("mmdebstrap, tmpfs", "mkosi, tmpfs"),
    "virtroot, overlay changed": ("mkosi incremental, disk", "mkosi incremental, tmpfs"),
    "virtroot, nothing changed": ("mkosi incremental, disk", "mkosi incremental, tmpfs"),
    "virtroot, ten recipes, nothing changed": (),
}


class Virtroot:
    """Runs ./inv build, with an output directory of its own."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.settings = Settings(output=str(scratch / "output"))
        self._packages = inputs.find("debian").recipe.packages

    def recipe(self, name: str, *, bootstrap: str = "mmdebstrap", more: str = "", package: str = "") -> Path:
        """Write the recipe called benchmark-NAME."""
        path = self._scratch / f"benchmark-{name}.yaml"
        packages = ", ".join((*self._packages, *filter(None, [package])))
        path.write_text(_RECIPE.format(bootstrap=bootstrap, packages=packages, more=more), encoding="utf-8")
        return path

    def build(self, recipe: Path, *options: str, output: str = "") -> None:
        """Build as a user does."""
        env = {"INVOKE_VIRTROOT_OUTPUT": output or self.settings.output}
        process.run([str(CHECKOUT / "inv"), "build", "--recipe", str(recipe), *options], env=env)

    def overlay(self, content: str) -> Path:
        """Return a recipe with an overlay of that content."""
        tree = self._scratch / "tree" / "etc"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "motd").write_text(content, encoding="utf-8")
        return self.recipe("overlay", more="overlay: tree")

    def ten(self) -> list[Path]:
        """Return ten recipes."""
        return [self.recipe(f"ten-{number}") for number in range(10)]

    def look_at_ten(self) -> None:
        """Say of ten recipes that nothing changed, as a night does."""
        with Asker(engines.connect(), self.settings) as asker:
            for recipe in self.ten():
                if find_unchanged(inputs.find(recipe=str(recipe)), self.settings, asker) is None:
                    raise SystemExit(f"{recipe} changed")


def main(rounds: int) -> None:
    """Run every contender ``rounds`` times after one round that warms the caches; print medians."""
    with tempfile.TemporaryDirectory() as scratch, _plain(Settings(output=f"{scratch}/output")) as plain:
        virtroot = Virtroot(Path(scratch))
        everything = virtroot.recipe("package", package=", ".join(_MORE))
        # Packages are in the cache, and roots that all begin with.
        for recipe in (everything, virtroot.overlay("first"), *virtroot.ten()):
            virtroot.build(recipe)
        times: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for name, contender in _contenders(plain, virtroot, scratch, number).items():
                taken = seconds(contender)
                # The first round warms the caches.
                if number:
                    times.setdefault(name, []).append(taken)
    _print({name: statistics.median(taken) for name, taken in times.items()})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of ./inv: {peak >> 10} MiB")


def _contenders(plain: Container, virtroot: Virtroot, scratch: str, number: int) -> dict[str, Callable[[], object]]:
    planned = inputs.find("debian")
    packages = ",".join((planned.recipe.kernel, *planned.plan.generator.packages, *planned.recipe.packages))

    def typed(script: str, place: str, *options: str) -> Callable[[], object]:
        return lambda: plain.run(["bash", "-ec", script, "typed", place, packages, *options])

    contenders: dict[str, Callable[[], object]] = {}
    for where, place in (("tmpfs", _FAST), ("disk", _DISK)):
        contenders[f"debootstrap, {where}"] = typed(_DEBOOTSTRAP, place)
        contenders[f"mmdebstrap, {where}"] = typed(_MMDEBSTRAP, place)
        contenders[f"mkosi, {where}"] = typed(_MKOSI, place, "-ff", "--incremental=yes")
        contenders[f"mkosi incremental, {where}"] = typed(_MKOSI, place, "-f", "--incremental=yes")
    cold = {tool: virtroot.recipe(f"cold-{tool}", bootstrap=tool) for tool in ("debootstrap", "mmdebstrap")}
    longer = virtroot.recipe("package", package=_MORE[number % len(_MORE)])
    overlay = virtroot.overlay(f"round {number}")
    unlike = virtroot.recipe("ten-0")
    runs: tuple[Callable[[], object], ...] = (
        lambda: virtroot.build(cold["debootstrap"], "--no-cache"),
        lambda: virtroot.build(cold["mmdebstrap"], "--no-cache"),
        lambda: virtroot.build(cold["mmdebstrap"], output=f"{scratch}/empty-{number}"),
        lambda: virtroot.build(longer),
        lambda: virtroot.build(overlay),
        lambda: virtroot.build(unlike),
        virtroot.look_at_ten,
    )
    return contenders | dict(zip(ROWS, runs, strict=True))


def _print(times: dict[str, float]) -> None:
    for name, taken in times.items():
        ratios = ", ".join(f"{taken / times[peer]:.2f} x {peer}" for peer in ROWS.get(name, ()))
        print(f"{name:<40} {taken:6.1f} s   {ratios}".rstrip())


def seconds(contender: Callable[[], object]) -> float:
    """Return the wall time of one call, in seconds."""
    begin = time.monotonic()
    contender()
    return time.monotonic() - begin


@contextmanager
def _plain(settings: Settings) -> Iterator[Container]:
    """Yield a container with the plain tools, a disk and a tmpfs; what the benchmark made goes with it."""
    engine = engines.connect()
    image, _ = container.ensure_image(engine, inputs.find("debian").plan.distro, settings)
    started = engine.start(
        image,
        labels={"virtroot.purpose": "benchmark"},
        argv=["sleep", "4h"],
        # mkosi's sandbox mounts by system calls that Docker's filter does not know.
        capabilities=("SYS_ADMIN",),
        seccomp=False,
        tmpfs={_FAST: f"rw,exec,suid,dev,mode=755,size={engine.memory() // 2}"},
    )
    try:
        started.run(["sh", "-ec", f"mkdir -p {_DISK}; {_INSTALL_MKOSI}"])
        yield started
    finally:
        started.remove()
        for name in ("package", "overlay", "cold-debootstrap", "cold-mmdebstrap", *(f"ten-{n}" for n in range(10))):
            engine.remove_volume(f"virtroot-cache-benchmark-{name}-{settings.key}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
