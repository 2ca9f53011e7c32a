"""Versions to compare, known pairs and made-up ones."""

from __future__ import annotations

import random

from pipelines.artifact import versions

#: Pairs of an older and a newer version, and what makes them so.
DEBIAN = [
    ("1.0~rc1", "1.0"),
    ("1.0~~", "1.0~"),
    ("1.0", "1.0a"),
    ("1.0a", "1.0+b"),
    ("1.9", "1.10"),
    ("9.9", "1:0.1"),
    ("1.0-1", "1.0-1+deb13u1"),
    ("1.0-1", "1.0-1.1"),
    ("6.12.48-1", "6.12.57-1"),
    ("257.8-1~deb13u2", "257.9-1~deb13u1"),
    ("2:1.0-1", "10:1.0-1"),
    ("1.0-rc1-1", "1.0-rc2-1"),
    ("", "0a"),
]
ARCH = [
    ("1.0a", "1.0"),
    ("1.0b", "1.0beta"),
    ("1.0beta", "1.0p"),
    ("1.0rc", "1.0"),
    ("1.0", "1.0.a"),
    ("1.0.a", "1.0.1"),
    ("1.0", "1.0.1"),
    ("1.9", "1.10"),
    ("9.9-9", "1:0.1-1"),
    ("1.0-1", "1.0-2"),
    ("6.17.1.arch1-1", "6.17.2.arch1-1"),
    ("1.0", "1..0"),
    ("20260101", "20260102"),
    ("r99.abc", "r100.abc"),
]


def made_up(chance: random.Random) -> str:
    """Return a version as dpkg takes them: an epoch at times, a number first, and no end of dots, dashes and tildes."""
    epoch = chance.choice(["", "", "", "0:", "1:", "12:"])
    body = "".join(chance.choices("0011239aAbZ.+~-", k=chance.randrange(8)))
    return f"{epoch}{chance.randrange(12)}{body}".rstrip("-")


def pairs(count: int) -> list[tuple[str, str]]:
    """Return made-up pairs, the same ones each time; one of three has only one place that differs."""
    chance = random.Random(4711)  # noqa: S311 - no secret
    found = []
    for number in range(count):
        one, other = made_up(chance), made_up(chance)
        if number % 3 == 0:
            # Behind the first digit after the epoch, as dpkg has it.
            place = chance.randrange(one.find(":") + 2, len(one) + 1)
            other = (one[:place] + chance.choice("019a.~+") + one[place:]).rstrip("-")
        found.append((one, other))
    return found


def as_words(compare: versions.Compare, tried: list[tuple[str, str]]) -> list[str]:
    return ["lt" if found < 0 else "gt" if found else "eq" for found in (compare(*pair) for pair in tried)]
