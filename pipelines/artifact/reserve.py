"""A little room on the output's disk, kept for saying that it is full."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SIZE = 1 << 20


class Reserve:
    """A file of 1 MiB in the directory ``output``, given up when a record finds no room."""

    def __init__(self, output: Path) -> None:
        self._path = output / ".reserve"

    def keep(self) -> None:
        """Make the file where it is missing and there is room for it."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _SIZE)

    def release(self) -> bool:
        """Give the room up; say whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
