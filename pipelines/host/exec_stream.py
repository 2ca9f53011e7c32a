"""The connection to a command that runs in a container: its input sent, its output taken apart."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

_CHUNK = 1 << 20


@contextmanager
def connection(stream: Any) -> Iterator[socket.socket]:
    """Yield the socket below what docker-py hands out, without its time-out: a build may be silent for minutes."""
    connection: socket.socket = getattr(stream, "_sock", stream)
    connection.settimeout(None)
    try:
        yield connection
    finally:
        stream.close()
        connection.close()


def feed(connection: socket.socket, stdin: bytes | IO[bytes] | None) -> threading.Thread | None:
    """Send ``stdin`` beside the reading, since a command may fill its output before it has read all its input."""
    if stdin is None:
        return None
    source: IO[bytes] = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin

    def send() -> None:
        # A command that ends before it has read everything closes the connection: its exit status tells.
        with suppress(OSError):
            while chunk := source.read(_CHUNK):
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)

    feeder = threading.Thread(target=send, daemon=True)
    feeder.start()
    return feeder


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield (stream, chunk) from the engine's multiplexed output: 8 bytes of header, then the chunk."""
    with connection.makefile("rb", buffering=_CHUNK) as reader:
        while len(header := reader.read(8)) == 8:
            stream, size = struct.unpack(">BxxxL", header)
            yield stream, reader.read(size)
