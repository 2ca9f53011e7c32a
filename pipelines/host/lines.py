"""Lines of three texts merged by GNU diff3."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import process

#: Seconds that one merge may take.
_LONGEST = 10


def merged(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """Return ``base`` with what both sides changed in it; None where they changed the same lines in other ways.

    What is no text, for diff3, is None too, and what takes it long: long texts of short lines with nothing in common.
    Raises `VirtrootError` where there is no diff3.
    """
    if not process.found("diff3"):
        raise VirtrootError("diff3 is not installed", "install the package diffutils")
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(text)
        argv = ["diff3", "--merge", "--show-overlap", *map(str, paths)]
        try:
            done = process.run(argv, env={"LC_ALL": "C"}, check=False, timeout=_LONGEST)
        except process.Overran:
            return None
    return done.stdout if done.returncode == 0 else None
