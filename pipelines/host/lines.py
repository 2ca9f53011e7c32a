"""Three-way merge of lines with GNU diff3."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import process

#: Seconds that one merge may take.
_TIMEOUT = 10


def merge(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """Return ``base`` with the changes of both sides; None if they conflict.

    Also returns None for content that diff3 takes for binary, and if diff3 exceeds the time limit, as for long texts of
    short lines without common ones. Raises VirtrootError if diff3 is not installed.
    """
    if not process.is_installed("diff3"):
        raise VirtrootError("diff3 is not installed", "install the package diffutils")
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(text)
        argv = ["diff3", "--merge", "--show-overlap", *map(str, paths)]
        try:
            done = process.run(argv, env={"LC_ALL": "C"}, check=False, timeout=_TIMEOUT)
        except process.Overran:
            return None
    return done.stdout if done.returncode == 0 else None
