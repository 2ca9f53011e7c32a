"""A recipe's commands are root in a builder: what later builds trust is out of their reach, and checked when used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.builder import container, inputs
from pipelines.engine import engine as engines
from pipelines.engine.container import Container
from pipelines.recipe.stage import CACHE
from tests.conftest import Virtroot, built_now, named

FIND = "find / -path /proc -prune -o -path /sys -prune -o " + " -o ".join(
    f"{test} -print" for test in ('-name "*.tar.zst"', '-name "*.tar"', '-path "*/.cache/*"', "-type b")
)

#: Leaves the root by the old way that chroot(2) warns of, writes wherever a later build might look, and says what it
#: finds of packed roots, and of disks.
ESCAPE = f"""perl -e 'mkdir "/x"; chroot "/x"; chdir ".." for 1..64; chroot ".";
for my $d ("{CACHE}/stages", "{CACHE}/archives", "{CACHE}") {{ mkdir $d; open my $f, ">", "$d/planted"; print $f "x"; }}
print "packed: $_\\n" for `{FIND}`;
open my $w, ">", "/escaped"; exit(-e "/escaped" && -d "/rootfs/root" ? 0 : 1)'; rmdir /x"""


@pytest.fixture
def trixie(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """Built now, since other builds are compared with it."""
    return built_now(inv, recipe)


@pytest.fixture
def escaping(recipe: Callable[..., Path]) -> Path:
    lines = "\n".join(f"    {line}" for line in ESCAPE.splitlines())
    return recipe(named("hostile"), f"run:\n  - |\n{lines}", bootstrap="mmdebstrap")


@pytest.fixture
def packages(inv: Virtroot, escaping: Path) -> Iterator[Container]:
    """The recipe's package cache, seen from a container of our own."""
    engine, found = engines.connect(), inputs.find(recipe=str(escaping))
    image, _ = container.ensure_image(engine, found.plan.distro, inv.settings)
    volume = container.get_cache_volume(found, inv.settings)
    looking = engine.start(image, labels={"virtroot.purpose": "test"}, argv=["sleep", "600"], volumes={volume: CACHE})
    yield looking
    looking.remove()
    engine.remove_containers({"virtroot.recipe": named("hostile")})
    engine.remove_volume(volume)


def kept(inv: Virtroot) -> dict[str, bytes]:
    """The records of the stage cache."""
    return {path.name: path.read_bytes() for path in (inv.output / ".cache" / "stages").glob("*.json")}


def test_what_later_builds_trust_is_out_of_reach(
    inv: Virtroot, trixie: Path, escaping: Path, packages: Container
) -> None:
    before = kept(inv)
    assert len(before) >= 3
    # From the packages that were kept, with one builder, and from nothing, with two.
    cached = []
    for option in ("", "--no-cache"):
        artifact = Path(inv("build", *filter(None, [option]), "--recipe", str(escaping)).stdout.strip())
        log = (artifact / "build.log").read_text()
        # Its own command is in the log, too, so what it printed is told by the line's beginning.
        assert [line for line in log.splitlines() if line.startswith("packed: ")] == []
        assert packages.run(["find", CACHE, "-name", "planted"]).text == ""
        assert kept(inv) == before
        cached += [stage.name for stage in load(artifact / "manifest.json").stages if stage.cached]
    assert cached == ["base", "skeleton", "kernel", "packages"]
    # The same command does find what is there.
    packages.run(["touch", "/planted.tar.zst"])
    assert "/planted.tar.zst" in packages.run(["sh", "-c", FIND], check=False).text.splitlines()
