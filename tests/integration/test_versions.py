"""The order of versions, against the dpkg and the vercmp of the package managers themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.artifact import versions
from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.engine import Container
from pipelines.recipe.distros import DISTROS
from pipelines.settings import Settings
from tests.support.versions import ARCH, as_words, pairs

DPKG = """
while read -r a b; do
    for o in lt eq gt; do if dpkg --compare-versions "$a" $o "$b"; then echo $o; fi; done
done
"""
VERCMP = 'while read -r a b; do vercmp "$a" "$b"; done'


@pytest.fixture(scope="module")
def worker() -> Iterator[Container]:
    """A container of Arch's builder, which is Debian with pacman."""
    engine, arch = engines.connect(), DISTROS["arch"]
    base = images.ensure_base(engine, Settings().base, arch.base_image, arch.base_suite)
    tag, _ = images.ensure_built(engine, arch.containerfile, base)
    worker = engine.start(tag, labels={"virtroot.purpose": "test-versions"}, argv=["sleep", "600"], transient=True)
    yield worker
    worker.remove()


def said(worker: Container, script: str, tried: list[tuple[str, str]]) -> list[str]:
    lines = "".join(f"{one} {other}\n" for one, other in tried).encode()
    return worker.run(["sh", "-ec", script], stdin=lines).text.split()


def test_archs_order_is_the_real_vercmps(worker: Container) -> None:
    tried = [*pairs(1000), *ARCH]
    words = [{"-1": "lt", "0": "eq", "1": "gt"}[each] for each in said(worker, VERCMP, tried)]
    ours = as_words(versions.compare_pacman, tried)
    assert list(zip(tried, ours, strict=True)) == list(zip(tried, words, strict=True))


def test_debians_order_is_the_real_dpkgs(worker: Container) -> None:
    tried = pairs(300)
    words = said(worker, DPKG, tried)
    assert set(words) == {"lt", "eq", "gt"}
    ours = as_words(versions.compare_dpkg, tried)
    assert list(zip(tried, ours, strict=True)) == list(zip(tried, words, strict=True))
