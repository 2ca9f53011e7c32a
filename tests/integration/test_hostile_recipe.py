"""A recipe's commands are root in a builder: what later builds trust is out of their reach, and checked when used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.builder import container, inputs
from pipelines.host import engine as engines
from pipelines.host.container import Container
from pipelines.recipe.stage import CACHE
from tests.conftest import Virtroot

#: Leaves the root by the old way that chroot(2) warns of, and writes wherever a later build might look.
ESCAPE = f"""perl -e 'mkdir "/x"; chroot "/x"; chdir ".." for 1..64; chroot ".";
for my $d ("{CACHE}/stages", "{CACHE}/archives", "{CACHE}") {{ mkdir $d; open my $f, ">", "$d/planted"; print $f "x"; }}
open my $w, ">", "/escaped"; exit(-e "/escaped" && -d "/rootfs/root" ? 0 : 1)'; rmdir /x"""


@pytest.fixture
def escaping(recipe: Callable[..., Path]) -> Path:
    lines = "\n".join(f"    {line}" for line in ESCAPE.splitlines())
    return recipe("e2e-hostile", f"run:\n  - |\n{lines}", bootstrap="mmdebstrap")


@pytest.fixture
def cache(inv: Virtroot, escaping: Path) -> Iterator[Container]:
    """The recipe's cache, seen from a container of our own."""
    engine, found = engines.connect(), inputs.find(recipe=str(escaping))
    image, _ = container.image(engine, found.plan.distro, inv.settings)
    volume = container.cache_volume(found)
    looking = engine.start(image, labels={"virtroot.purpose": "test"}, argv=["sleep", "600"], volumes={volume: CACHE})
    yield looking
    looking.remove()
    engine.remove_containers({"virtroot.recipe": "e2e-hostile"})
    engine.remove_volume(volume)


def test_the_cache_is_out_of_reach_and_a_changed_one_is_noticed(
    inv: Virtroot, escaping: Path, cache: Container
) -> None:
    inv("build", "--recipe", str(escaping))
    assert cache.run(["find", CACHE, "-name", "planted"]).text == ""
    (kept,) = cache.run(["find", f"{CACHE}/stages", "-type", "f"]).text.splitlines()

    assert "(from the cache)" in inv("build", "--recipe", str(escaping)).stderr

    flip = 'printf "\\377" | dd of="$1" bs=1 seek=1000000 conv=notrunc status=none'
    cache.run(["sh", "-ec", flip, "flip", kept])
    said = inv("build", "--recipe", str(escaping)).stderr
    assert "is not what was put there; it is made anew" in said
    assert "(from the cache)" not in said
