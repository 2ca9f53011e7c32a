"""Which of two versions is newer, as dpkg and pacman see it; versions are text that others wrote, and never refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from itertools import zip_longest
from typing import Any

#: Takes two versions; negative where the first is older, 0 where they are equal, positive where it is newer.
Compare = Callable[[str, str], int]

# Python's own isdigit and isalpha take other scripts' digits and letters too.
_RUNS = re.compile(r"[0-9]+|[^0-9]+")
_SEGMENT = re.compile(r"[0-9]+|[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z]")


def order(distro: str) -> Compare:
    """Return how versions of the packages of ``distro`` compare."""
    return pacman if distro == "arch" else dpkg


def newest_last(distro: str) -> Callable[[str], Any]:
    """Return the key that sorts versions by age, oldest first."""
    return cmp_to_key(order(distro))


def dpkg(one: str, other: str) -> int:
    """Compare two versions as deb-version(7) says: epoch, upstream version, revision."""
    for left, right in zip(_debian_parts(one), _debian_parts(other), strict=True):
        if found := _compare_runs(left, right):
            return found
    return 0


def _debian_parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_runs(one: str, other: str) -> int:
    """Compare text and numbers by turns, text first; a tilde is older than the end, letters before all else."""
    for left, right in zip_longest(_by_turns(one), _by_turns(other), fillvalue=("", "")):
        for a, b in zip_longest(left[0], right[0], fillvalue=""):
            if found := _weight(a) - _weight(b):
                return found
        if found := _number(left[1], right[1]):
            return found
    return 0


def _by_turns(text: str) -> list[tuple[str, str]]:
    runs = _RUNS.findall(text)
    if runs and runs[0][0] in "0123456789":
        runs.insert(0, "")
    return list(zip_longest(runs[::2], runs[1::2], fillvalue=""))


def _weight(character: str) -> int:
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isascii() and character.isalpha() else ord(character) + 256


def _number(one: str, other: str) -> int:
    # int() refuses numbers of some thousand digits.
    one, other = one.lstrip("0"), other.lstrip("0")
    return len(one) - len(other) or (one > other) - (one < other)


def pacman(one: str, other: str) -> int:
    """Compare two versions as vercmp(8) does: epoch, version, and the release where both have one."""
    left, right = _arch_parts(one), _arch_parts(other)
    for a, b in zip(left[:2], right[:2], strict=True):
        if found := _compare_segments(a, b):
            return found
    return _compare_segments(left[2], right[2]) if left[2] and right[2] else 0


def _arch_parts(version: str) -> tuple[str, str, str]:
    found = re.match(r"([0-9]*):", version)
    epoch, rest = (found[1] or "0", version[found.end() :]) if found else ("0", version)
    upstream, dash, release = rest.rpartition("-")
    return (epoch, upstream, release) if dash else (epoch, rest, "")


def _compare_segments(one: str, other: str) -> int:
    """Compare numbers and words by turns; what stands between them counts by its length alone."""
    at, there = 0, 0
    while at < len(one) and there < len(other):
        left, right = _between(one, at), _between(other, there)
        shift = (left - at) - (right - there)
        at, there = left, right
        if at == len(one) or there == len(other):
            break
        if shift:
            return shift
        a, b = _segment(one, at), _segment(other, there)
        if a.isdigit() != b.isdigit():
            return 1 if a.isdigit() else -1
        if found := _number(a, b) if a.isdigit() else (a > b) - (a < b):
            return found
        at, there = at + len(a), there + len(b)
    rest, others = one[at:], other[there:]
    if not rest and not others:
        return 0
    # A word more is older (1.0rc before 1.0), anything else more is newer.
    return (-1 if _LETTER.match(rest) else 1) if rest else (1 if _LETTER.match(others) else -1)


def _between(text: str, start: int) -> int:
    found = _SEGMENT.search(text, start)
    return found.start() if found else len(text)


def _segment(text: str, start: int) -> str:
    found = _SEGMENT.match(text, start)
    return found[0] if found else ""
