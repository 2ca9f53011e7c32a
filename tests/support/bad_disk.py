"""A file on a disk that fails."""

from __future__ import annotations

import errno
import io


class BadDisk(io.RawIOBase):
    """A file whose disk fails after its first bytes."""

    name = "/srv/rootfs"

    def __init__(self, good: bytes = b"begin") -> None:
        self._good = [good] if good else []

    def read(self, size: int = -1) -> bytes:
        if self._good:
            return self._good.pop()
        raise OSError(errno.EIO, "Input/output error")
