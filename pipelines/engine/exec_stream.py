"""The connection to a command in a container: sends its input and parses its multiplexed output."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pipelines.host.feed import Feeder, Source

#: Takes a chunk of a command's output.
Sink = Callable[[bytes], object]

_BUFFER = 1 << 20

#: Seconds without traffic after which the kernel probes a connection to a remote engine.
_KEEPALIVE = 30


@dataclass(frozen=True)
class Connection:
    """A connection to a command: its socket, and ``early``, the output that was read before that of the socket."""

    socket: socket.socket
    early: bytes = b""


@contextmanager
def open_connection(stream: Any) -> Iterator[Connection]:
    """Yield the connection of docker-py's ``stream``, without its time-out: a build may print nothing for minutes."""
    below: socket.socket = getattr(stream, "_sock", stream)
    try:
        early = _read_early(stream, below)
        below.settimeout(None)
        keep_alive(below)
        yield Connection(below, early)
    finally:
        close(stream)


def keep_alive(connection: socket.socket) -> None:
    """Make the kernel probe an idle connection. Otherwise a router may drop it, and neither end notices."""
    with suppress(OSError):  # A Unix socket has no such option.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)


def close(stream: Any) -> None:
    """Close a connection of docker-py."""
    below: socket.socket = getattr(stream, "_sock", stream)
    stream.close()
    below.close()


def _read_early(stream: Any, below: socket.socket) -> bytes:
    """Return the output that was buffered with the engine's answer.

    docker-py returns the socket below the buffered reader of the answer. On a busy machine the command has printed
    before the answer is read, and that output would be lost.
    """
    answer = getattr(stream, "_response", None)
    if answer is None:
        return b""
    below.settimeout(0)
    return bytes(answer.raw._fp.fp.peek())


def exchange(
    connection: Connection, stdin: Source | None, sinks: Mapping[int, Sink], timeout: float | None = None
) -> bool:
    """Send ``stdin`` and pass the output to ``sinks``, by stream number, until the command ends.

    Returns False if ``timeout``, in seconds, passed first. Raises VirtrootError if ``stdin`` cannot be read. In both
    cases the connection is closed.
    """
    feeder = feed(connection.socket, stdin)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        cut(connection.socket)

    timer = None if timeout is None else threading.Timer(timeout, give_up)
    try:
        if timer:
            timer.daemon = True
            timer.start()
        for stream, chunk in read_frames(connection):
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
    """Send ``stdin`` in a thread, then half-close the connection; close it completely if ``stdin`` cannot be read."""
    if stdin is None:
        return None
    return Feeder(
        stdin,
        connection.sendall,
        close=lambda: connection.shutdown(socket.SHUT_WR),
        abort=lambda: cut(connection),
    )


def cut(connection: socket.socket) -> None:
    """Shut down the connection in both directions, so that a reader sees its end."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def end(connection: Connection, frames: Iterator[tuple[int, bytes]], timeout: float) -> None:
    """Close the command's input and wait until it exits, at most ``timeout`` seconds."""
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_WR)
        connection.socket.settimeout(timeout)
        for _ in frames:
            pass


def read_frames(connection: Connection) -> Generator[tuple[int, bytes], None, None]:
    """Yield stream number and chunk of the engine's multiplexed output: a header of 8 bytes, then the chunk."""
    early = io.BytesIO(connection.early)
    with connection.socket.makefile("rb", buffering=_BUFFER) as reader:

        def read(size: int) -> bytes:
            first = early.read(size)
            return first if len(first) == size else first + reader.read(size - len(first))

        while len(header := read(8)) == 8:
            stream, size = struct.unpack(">BxxxL", header)
            yield stream, read(size)
