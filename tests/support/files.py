"""Writes files whose time, mode and owner are known."""

from __future__ import annotations

import os
from pathlib import Path

#: When the files of tests were made, in seconds of the epoch.
MADE = 1_700_000_000


def write(path: Path, text: str, *, mode: int = 0o644, owner: tuple[int, int] | None = None, when: int = MADE) -> Path:
    """Write a file, and make the directories above it; without ``owner`` it is the tests' own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    if owner:
        os.chown(path, *owner)
    path.chmod(mode)
    os.utime(path, (when, when))
    return path
