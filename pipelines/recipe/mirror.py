"""The state of a mirror: what decides which packages a build gets."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MirrorState:
    """The state of a mirror; equal states offer the same packages.

    ``date`` is the time of the newest change, in seconds since 1970. ``digests`` has a line ``SHA256 NAME`` for each
    index.
    """

    date: int
    digests: tuple[str, ...]


def parse(text: str) -> MirrorState:
    """Parse the output of a mirror query: the date, then the digests. Raises ValueError for anything else."""
    date, *digests = text.removesuffix("\n").split("\n")
    return MirrorState(int(date), tuple(re.sub("[ \t]+", " ", line.strip(" \t")) for line in digests))
