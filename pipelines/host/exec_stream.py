"""The connection to a command that runs in a container: its input sent, its output taken apart."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.host.feed import Feeder, Source

#: Takes a chunk of a command's output as it comes.
Sink = Callable[[bytes], object]

_BUFFER = 1 << 20


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


def exchange(
    connection: socket.socket, stdin: Source | None, sinks: Mapping[int, Sink], timeout: float | None = None
) -> bool:
    """Send ``stdin`` and pass the output to ``sinks`` (by stream number) until the command ends.

    Returns False when ``timeout`` (seconds) passed first; raises `VirtrootError` when ``stdin`` cannot be read. The
    connection is cut in both cases.
    """
    feeder = feed(connection, stdin)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        cut(connection)

    timer = None if timeout is None else threading.Timer(timeout, give_up)
    try:
        if timer:
            timer.daemon = True
            timer.start()
        for stream, chunk in frames(connection):
            sinks[stream](chunk)
    except ConnectionError:
        if not late.is_set():
            raise
    finally:
        if timer:
            timer.cancel()
        if feeder:
            feeder.check()
    return not late.is_set()


def feed(connection: socket.socket, stdin: Source | None) -> Feeder | None:
    """Send ``stdin`` beside the reading, then half-close the connection; one that cannot be read cuts it."""
    if stdin is None:
        return None
    return Feeder(
        stdin,
        connection.sendall,
        close=lambda: connection.shutdown(socket.SHUT_WR),
        abort=lambda: cut(connection),
    )


def cut(connection: socket.socket) -> None:
    """End the connection in both directions; whoever reads from it sees its end."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield (stream, chunk) from the engine's multiplexed output: 8 bytes of header, then the chunk."""
    with connection.makefile("rb", buffering=_BUFFER) as reader:
        while len(header := reader.read(8)) == 8:
            stream, size = struct.unpack(">BxxxL", header)
            yield stream, reader.read(size)
