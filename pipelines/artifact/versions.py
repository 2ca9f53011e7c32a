"""Which of two versions of a package is newer, by the rules of dpkg (deb-version(7)) and of pacman (vercmp(8))."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

_PART = re.compile(r"[0-9]+|[A-Za-z]+")


def compare(first: str, second: str, distro: str) -> int:
    """Return a number below, at or above 0 as ``first`` is older than ``second``, as old, or newer."""
    if first == second:
        return 0
    return _pacman(first, second) if distro == "arch" else _dpkg(first, second)


def _sign(first: Any, second: Any) -> int:
    return int(first > second) - int(first < second)


def _number(digits: str) -> tuple[int, str]:
    """Return what sorts as the number does: of any length, as a package may say."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _dpkg(first: str, second: str) -> int:
    for one, other in zip(_deb_parts(first), _deb_parts(second), strict=True):
        # Text and numbers in turn, beginning with text that may be empty.
        pairs = zip_longest(re.split(r"([0-9]+)", one), re.split(r"([0-9]+)", other), fillvalue="")
        for place, (mine, theirs) in enumerate(pairs):
            decided = _sign(_number(mine), _number(theirs)) if place % 2 else _deb_text(mine, theirs)
            if decided:
                return decided
    return 0


def _deb_parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.rpartition(":") if ":" in version else ("", "", version)
    upstream, dash, revision = rest.rpartition("-")
    return (epoch if colon else "", upstream if dash else rest, revision if dash else "")


def _deb_text(first: str, second: str) -> int:
    """Compare text: a tilde sorts before the end, letters before everything else."""

    def weights(text: str) -> list[int]:
        return [-1 if each == "~" else ord(each) if each.isalpha() else ord(each) + 256 for each in text] + [0]

    return _sign(weights(first), weights(second))


def _pacman(first: str, second: str) -> int:
    (epoch, version, release), (other_epoch, other_version, other_release) = _arch_parts(first), _arch_parts(second)
    return (
        _rpm(epoch, other_epoch)
        or _rpm(version, other_version)
        or (0 if release is None or other_release is None else _rpm(release, other_release))
    )


def _arch_parts(version: str) -> tuple[str, str, str | None]:
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", version
    number, dash, release = rest.rpartition("-")
    return (epoch, number, release) if dash else (epoch, rest, None)


def _rpm(first: str, second: str) -> int:
    end, other_end = 0, 0
    while end < len(first) and other_end < len(second):
        one, other = _PART.search(first, end), _PART.search(second, other_end)
        if one is None or other is None:
            # What separates nothing any more does not count, on either side.
            end, other_end = (_begin(one, first), _begin(other, second))
            break
        gap, other_gap = one.start() - end, other.start() - other_end
        if gap != other_gap:
            return _sign(gap, other_gap)
        if one[0].isdigit() != other[0].isdigit():
            # A number is newer than letters in its place.
            return 1 if one[0].isdigit() else -1
        decided = _sign(_number(one[0]), _number(other[0])) if one[0].isdigit() else _sign(one[0], other[0])
        if decided:
            return decided
        end, other_end = one.end(), other.end()
    left, other_left = first[end:], second[other_end:]
    if not left and not other_left:
        return 0
    # 1.0 is newer than 1.0rc1, and older than 1.0.1.
    return -1 if left[:1].isalpha() or not (left or other_left[:1].isalpha()) else 1


def _begin(part: re.Match[str] | None, text: str) -> int:
    return part.start() if part else len(text)
