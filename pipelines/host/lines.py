"""Lines of three texts merged by GNU diff3."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import process


def merged(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """Return ``base`` with what both sides changed in it; None where they changed the same lines in other ways.

    What is no text, for diff3, is None too. Raises `VirtrootError` where there is no diff3.
    """
    if not process.found("diff3"):
        raise VirtrootError("diff3 is not installed", "install the package diffutils")
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(text)
        done = process.run(["diff3", "--merge", "--show-overlap", *map(str, paths)], env={"LC_ALL": "C"}, check=False)
    return done.stdout if done.returncode == 0 else None
