"""What is in an artifact's tarball, as GNU tar lists it."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.artifact.artifact import Artifact
from pipelines.host import process

#: Bytes that a list of files may have: a root with a million files has a tenth of it.
_LIMIT = 1 << 30


@dataclass(frozen=True)
class Entry:
    """A file: type and mode as ls writes them, owner and group as numbers, bytes, time, and what a link names."""

    mode: str
    owner: str
    size: int
    time: str
    target: str = ""


def entries(artifact: Artifact) -> dict[str, Entry]:
    """Return the files in the tarball by their path in the root; names have their odd characters escaped."""
    options = ("--list", "--verbose", "--numeric-owner", "--full-time", "--utc", "--quoting-style=escape", "--zstd")
    listed = process.run(["env", "LC_ALL=C", "tar", *options, "--file", str(artifact.tarball)], limit=_LIMIT)
    return dict(_parsed(line) for line in listed.stdout.decode(errors="replace").splitlines())


def _parsed(line: str) -> tuple[str, Entry]:
    mode, owner, size, day, clock, rest = line.split(maxsplit=5)
    separator = {"l": " -> ", "h": " link to "}.get(mode[0], "\n")
    name, _, target = rest.partition(separator)
    # Of a device its numbers are listed instead.
    count = int(size) if size.isdigit() else 0
    return name.removeprefix("."), Entry(mode, owner, count, f"{day} {clock}", target)
