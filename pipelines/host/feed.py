"""A command's input, handed over beside the reading of its output."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, cast

from pipelines.errors import VirtrootError

#: What a command may read: bytes, or an open file.
Source = bytes | IO[bytes]

_CHUNK = 1 << 20


class Feeder:
    """A thread that reads a source to its end and sends it, since a command may fill its output before it has read.

    ``send`` takes each chunk and ``close`` tells the command that there is no more. ``abort`` ends the command when the
    source cannot be read: without its end it would wait for ever, and with an early end take half for the whole.
    """

    def __init__(
        self,
        source: Source,
        send: Callable[[bytes], object],
        close: Callable[[], object],
        abort: Callable[[], object],
    ) -> None:
        self._source: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source
        self._send, self._close, self._abort = send, close, abort
        self._error: Exception | None = None
        threading.Thread(target=self._feed, daemon=True).start()

    def check(self) -> None:
        """Raise what went wrong in reading the source: `VirtrootError` with its name where the system said no."""
        if isinstance(self._error, OSError):
            name = getattr(self._source, "name", None)
            file = name if isinstance(name, str) else self._error.filename or "the file that a command was to read"
            raise VirtrootError(
                f"cannot read {file}: {self._error.strerror or self._error}",
                "see dmesg for what the kernel says of its disk, or bring another copy of the file",
            ) from self._error
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        # A command that ends before it has read everything closes its input: its exit status tells.
        with suppress(OSError):
            try:
                while chunk := self._next():
                    self._send(chunk)
            finally:
                self._close()

    def _next(self) -> bytes:
        try:
            return self._source.read(_CHUNK)
        except Exception as error:
            self._error = error
            self._abort()
            return b""


def counted(content: IO[bytes], advance: Callable[[int], object]) -> IO[bytes]:
    """Return ``content``, to be read from its beginning to its end; ``advance`` is told how many bytes each time."""
    return cast("IO[bytes]", _Counted(content, advance))


class _Counted:
    def __init__(self, content: IO[bytes], advance: Callable[[int], object]) -> None:
        self._content, self._advance = content, advance
        self.name = getattr(content, "name", "")

    def read(self, count: int = -1) -> bytes:
        chunk = self._content.read(count)
        self._advance(len(chunk))
        return chunk
