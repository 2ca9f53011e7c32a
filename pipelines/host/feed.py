"""Feeds a command's input in a thread, while its output is read."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, cast

from pipelines.errors import VirtrootError

#: The input of a command: bytes, or an open file.
Source = bytes | IO[bytes]

_CHUNK = 1 << 20


class Feeder:
    """A thread that sends a source to a command. Without it, a command that fills its output first would block.

    ``send`` takes each chunk, ``close`` closes the command's input. ``abort`` ends the command if the source cannot be
    read: without the end of its input it would wait forever, and with an early end it would accept partial input.
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
        threading.Thread(target=self._run, daemon=True).start()

    def check(self) -> None:
        """Raise the error of reading the source, if any: VirtrootError for an OSError, otherwise the error itself."""
        if isinstance(self._error, OSError):
            name = getattr(self._source, "name", None)
            file = name if isinstance(name, str) else self._error.filename or "a command's input"
            raise VirtrootError(
                f"cannot read {file}: {self._error.strerror or self._error}",
                "check dmesg for errors of the disk, or use another copy of the file",
            ) from self._error
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # A command may end before it has read everything. Its exit status is what counts.
        with suppress(OSError):
            try:
                while chunk := self._read_chunk():
                    self._send(chunk)
            finally:
                self._close()

    def _read_chunk(self) -> bytes:
        try:
            return self._source.read(_CHUNK)
        except Exception as error:
            self._error = error
            self._abort()
            return b""


def count_reads(content: IO[bytes], advance: Callable[[int], object]) -> IO[bytes]:
    """Wrap ``content`` so that ``advance`` is called with the number of bytes of each read."""
    return cast("IO[bytes]", _CountingReader(content, advance))


class _CountingReader:
    def __init__(self, content: IO[bytes], advance: Callable[[int], object]) -> None:
        self._content, self._advance = content, advance
        self.name = getattr(content, "name", "")

    def read(self, count: int = -1) -> bytes:
        chunk = self._content.read(count)
        self._advance(len(chunk))
        return chunk
