"""Compares versions as dpkg and pacman do. Any text is accepted as a version."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from itertools import zip_longest
from typing import Any

#: Compares two versions; negative if the first is older, 0 if they are equal, positive if the first is newer.
Compare = Callable[[str, str], int]

# Python's isdigit and isalpha also accept digits and letters of other scripts.
_RUNS = re.compile(r"[0-9]+|[^0-9]+")
_SEGMENT = re.compile(r"[0-9]+|[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z]")


def get_compare(distro: str) -> Compare:
    """Return the function that compares versions of packages of ``distro``."""
    return compare_pacman if distro == "arch" else compare_dpkg


def make_sort_key(distro: str) -> Callable[[str], Any]:
    """Return a key function that sorts versions by age, oldest first."""
    return cmp_to_key(get_compare(distro))


def compare_dpkg(one: str, other: str) -> int:
    """Compare two versions by the rules of deb-version(7): epoch, upstream version, revision."""
    for left, right in zip(_split_dpkg(one), _split_dpkg(other), strict=True):
        if found := _compare_runs(left, right):
            return found
    return 0


def _split_dpkg(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_runs(one: str, other: str) -> int:
    """Compare text and numbers alternately, text first. A tilde sorts before the end, letters sort before the rest."""
    for left, right in zip_longest(_split_runs(one), _split_runs(other), fillvalue=("", "")):
        for a, b in zip_longest(left[0], right[0], fillvalue=""):
            if found := _get_weight(a) - _get_weight(b):
                return found
        if found := _compare_numbers(left[1], right[1]):
            return found
    return 0


def _split_runs(text: str) -> list[tuple[str, str]]:
    runs = _RUNS.findall(text)
    if runs and runs[0][0] in "0123456789":
        runs.insert(0, "")
    return list(zip_longest(runs[::2], runs[1::2], fillvalue=""))


def _get_weight(character: str) -> int:
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isascii() and character.isalpha() else ord(character) + 256


def _compare_numbers(one: str, other: str) -> int:
    # int() refuses numbers with some thousand digits.
    one, other = one.lstrip("0"), other.lstrip("0")
    return len(one) - len(other) or (one > other) - (one < other)


def compare_pacman(one: str, other: str) -> int:
    """Compare two versions by the rules of vercmp(8): epoch, version, and the release if both have one."""
    left, right = _split_pacman(one), _split_pacman(other)
    for a, b in zip(left[:2], right[:2], strict=True):
        if found := _compare_segments(a, b):
            return found
    return _compare_segments(left[2], right[2]) if left[2] and right[2] else 0


def _split_pacman(version: str) -> tuple[str, str, str]:
    found = re.match(r"([0-9]*):", version)
    epoch, rest = (found[1] or "0", version[found.end() :]) if found else ("0", version)
    upstream, dash, release = rest.rpartition("-")
    return (epoch, upstream, release) if dash else (epoch, rest, "")


def _compare_segments(one: str, other: str) -> int:
    """Compare numbers and words alternately; of the characters between them only the number counts."""
    at, there = 0, 0
    while at < len(one) and there < len(other):
        left, right = _find_segment(one, at), _find_segment(other, there)
        shift = (left - at) - (right - there)
        at, there = left, right
        if at == len(one) or there == len(other):
            break
        if shift:
            return shift
        a, b = _get_segment(one, at), _get_segment(other, there)
        if a.isdigit() != b.isdigit():
            return 1 if a.isdigit() else -1
        if found := _compare_numbers(a, b) if a.isdigit() else (a > b) - (a < b):
            return found
        at, there = at + len(a), there + len(b)
    rest, others = one[at:], other[there:]
    if not rest and not others:
        return 0
    # An additional word makes a version older (1.0rc before 1.0), anything else makes it newer.
    return (-1 if _LETTER.match(rest) else 1) if rest else (1 if _LETTER.match(others) else -1)


def _find_segment(text: str, start: int) -> int:
    found = _SEGMENT.search(text, start)
    return found.start() if found else len(text)


def _get_segment(text: str, start: int) -> str:
    found = _SEGMENT.match(text, start)
    return found[0] if found else ""
