"""What a mirror offers, as far as a build depends on it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MirrorState:
    """Two equal states offer the same packages.

    ``date`` is that of the newest change in seconds since 1970; ``digests`` has a line ``SHA256 NAME`` for each index.
    """

    date: int
    digests: tuple[str, ...]


def parse(text: str) -> MirrorState:
    """Take apart what a mirror query prints: the date, then the digests; raises ValueError for anything else."""
    date, *digests = text.removesuffix("\n").split("\n")
    return MirrorState(int(date), tuple(re.sub("[ \t]+", " ", line.strip(" \t")) for line in digests))
