"""The order of versions, against the vercmp that comes with pacman."""

from __future__ import annotations

from pipelines.artifact import versions
from pipelines.host import engine as engines
from pipelines.host import images
from pipelines.recipe.distros import DISTROS
from pipelines.settings import Settings
from tests.unit.test_versions import ARCH, as_words, pairs


def test_archs_order_is_the_real_vercmps() -> None:
    engine, arch = engines.connect(), DISTROS["arch"]
    base = images.base(engine, Settings().base, arch.base_image, arch.base_suite)
    tag, _ = images.built(engine, arch.containerfile, base)
    tried = [*pairs(1000), *ARCH]
    lines = "".join(f"{one} {other}\n" for one, other in tried).encode()
    worker = engine.start(tag, labels={"virtroot.purpose": "test-vercmp"}, argv=["sleep", "600"], transient=True)
    try:
        said = worker.run(["sh", "-ec", 'while read -r a b; do vercmp "$a" "$b"; done'], stdin=lines).text.split()
    finally:
        worker.remove()
    words = [{"-1": "lt", "0": "eq", "1": "gt"}[each] for each in said]
    ours = as_words(versions.pacman, tried)
    assert list(zip(tried, ours, strict=True)) == list(zip(tried, words, strict=True))
