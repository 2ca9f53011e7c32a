"""A reserve of space on the output's disk, for the record that the disk is full."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SIZE = 1 << 20


class Reserve:
    """A file of 1 MiB in the directory ``output``, which is deleted when there is no space for a record."""

    def __init__(self, output: Path) -> None:
        self._path = output / ".reserve"

    def keep(self) -> None:
        """Create the file if it is missing and there is space for it."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _SIZE)

    def release(self) -> bool:
        """Delete the file; return whether it existed."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
