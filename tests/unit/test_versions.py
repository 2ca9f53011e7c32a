"""The order of versions, against known pairs; dpkg and vercmp themselves are asked in the integration tests."""

from __future__ import annotations

import pytest

from pipelines.artifact import versions
from tests.support.versions import ARCH, DEBIAN

EQUAL = [
    ("debian", "1.0", "1.00"),
    ("debian", "0:1.0", "1.0"),
    ("debian", "1.0-0", "1.0"),
    ("arch", "1.0", "1.00"),
    ("arch", "0:1.0", "1.0"),
    ("arch", "1.0", "1.0-5"),
    ("arch", "1.0", "1_0"),
    ("arch", "1.0.", "1.0.."),
]


@pytest.mark.parametrize(("distro", "older", "newer"), [
    *(("debian", *pair) for pair in DEBIAN), *(("arch", *pair) for pair in ARCH),
])  # fmt: skip
def test_one_is_older(distro: str, older: str, newer: str) -> None:
    compare = versions.get_compare(distro)
    assert compare(older, newer) < 0 < compare(newer, older)
    assert compare(older, older) == 0


@pytest.mark.parametrize(("distro", "one", "other"), EQUAL)
def test_both_are_as_old(distro: str, one: str, other: str) -> None:
    compare = versions.get_compare(distro)
    assert compare(one, other) == compare(other, one) == 0


@pytest.mark.parametrize("distro", ["debian", "arch"])
@pytest.mark.parametrize("odd", ["", ":", "-", "a:b:c", "9" * 20_000, "²", "٣", "\0", "-".join("~" * 999), "\ud800"])
def test_whatever_is_written_has_its_place(distro: str, odd: str) -> None:
    compare = versions.get_compare(distro)
    assert compare(odd, odd) == 0
    assert (compare(odd, "1.0") > 0) == (compare("1.0", odd) < 0)
