"""This process's standard input and output, joined to a port."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress

from pipelines.errors import VirtrootError

#: Seconds that what listens may take to do so: an emulated guest's sshd may be up long after its agent.
PATIENCE = 60

_PAUSE = 0.5

_CHUNK = 1 << 16


def relay(address: str, port: int) -> None:
    """Pass bytes on between standard input and output and ``port`` at ``address`` until the other end closes it.

    Raises `VirtrootError` where nothing answers there within `PATIENCE` seconds.
    """
    with _connected(address, port) as connection:
        threading.Thread(target=_send, args=(connection,), daemon=True).start()
        with suppress(ConnectionError):
            while data := connection.recv(_CHUNK):
                write(data)


def _connected(address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=PATIENCE)
        except OSError as error:
            if time.monotonic() > deadline:
                raise VirtrootError(
                    f"nothing answers at {address} port {port}: {error}", "see whether sshd runs in the guest"
                ) from error
            time.sleep(_PAUSE)
        else:
            connection.settimeout(None)
            return connection


def _send(connection: socket.socket) -> None:
    with suppress(OSError):
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def write(data: bytes) -> None:
    """Write to standard output at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]
