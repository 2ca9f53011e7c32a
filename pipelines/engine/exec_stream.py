"""The connection to a command that runs in a container: its input sent, its output taken apart."""

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

#: Takes a chunk of a command's output as it comes.
Sink = Callable[[bytes], object]

_BUFFER = 1 << 20

#: Seconds of silence after which a connection to a remote engine is probed.
_KEEPALIVE = 30


@dataclass(frozen=True)
class Connection:
    """A connection to a command: its socket, and the output that came ``early``, before what can be read from that."""

    socket: socket.socket
    early: bytes = b""


@contextmanager
def connection(stream: Any) -> Iterator[Connection]:
    """Yield the connection in what docker-py hands out, without its time-out: a build may be silent for minutes."""
    below: socket.socket = getattr(stream, "_sock", stream)
    try:
        early = _early(stream, below)
        below.settimeout(None)
        keep_alive(below)
        yield Connection(below, early)
    finally:
        close(stream)


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel probe a silent connection. Otherwise a router may forget it, and neither end notices."""
    with suppress(OSError):  # A Unix socket has no such option.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)


def close(stream: Any) -> None:
    """Close a connection that docker-py handed out."""
    below: socket.socket = getattr(stream, "_sock", stream)
    stream.close()
    below.close()


def _early(stream: Any, below: socket.socket) -> bytes:
    """Return what was read ahead with the engine's answer.

    docker-py hands out the socket below that answer's reader. A command on a busy machine has printed before the answer
    is read, and that would be lost.
    """
    answer = getattr(stream, "_response", None)
    if answer is None:
        return b""
    below.settimeout(0)
    return bytes(answer.raw._fp.fp.peek())


def exchange(
    connection: Connection, stdin: Source | None, sinks: Mapping[int, Sink], timeout: float | None = None
) -> bool:
    """Send ``stdin`` and pass the output to ``sinks`` (by stream number) until the command ends.

    Returns False when ``timeout`` (seconds) passed first; raises `VirtrootError` when ``stdin`` cannot be read. The
    connection is cut in both cases.
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


def end(connection: Connection, frames: Iterator[tuple[int, bytes]], timeout: float) -> None:
    """Close the command's input and wait until it exits, at most ``timeout`` seconds."""
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_WR)
        connection.socket.settimeout(timeout)
        for _ in frames:
            pass


def frames(connection: Connection) -> Generator[tuple[int, bytes], None, None]:
    """Yield (stream, chunk) from the engine's multiplexed output: 8 bytes of header, then the chunk."""
    early = io.BytesIO(connection.early)
    with connection.socket.makefile("rb", buffering=_BUFFER) as reader:

        def read(size: int) -> bytes:
            first = early.read(size)
            return first if len(first) == size else first + reader.read(size - len(first))

        while len(header := read(8)) == 8:
            stream, size = struct.unpack(">BxxxL", header)
            yield stream, read(size)
