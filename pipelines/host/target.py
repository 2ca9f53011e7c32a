"""Where commands run: on this machine, or in a container (the builder, the embedded hypervisor)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.engine import Container
from pipelines.host.feed import Source
from pipelines.host.process import Completed


class Target(Protocol):
    """A machine that has what a command needs: its tools, its files, its libvirt."""

    @property
    def python(self) -> str:
        """The Python interpreter on the target."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Source | None = None,
        check: bool = True,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Completed:
        """Run ``argv`` there; raises `VirtrootError` on a non-zero exit unless ``check`` is off.

        ``timeout`` is in seconds, ``limit`` is how many bytes of each output are taken; overrunning one is an error.
        """

    def attach(self, argv: Sequence[str]) -> int:
        """Run ``argv`` there on the user's terminal, and return its exit status."""

    def holding(self, argv: Sequence[str]) -> AbstractContextManager[str]:
        """Run ``argv`` there until the block ends, which ends its input; yield the first line it prints."""


@dataclass(frozen=True)
class Local:
    """This machine."""

    python: str = sys.executable

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Source | None = None,
        check: bool = True,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Completed:
        """See `Target.run`."""
        return process.run(argv, stdin=stdin, check=check, timeout=timeout, limit=limit)

    def attach(self, argv: Sequence[str]) -> int:
        """See `Target.attach`."""
        return process.attach(argv)

    def holding(self, argv: Sequence[str]) -> AbstractContextManager[str]:
        """See `Target.holding`."""
        return process.holding(argv)


@dataclass(frozen=True)
class InContainer:
    """A container that virtroot started."""

    container: Container
    python: str = "python3"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Source | None = None,
        check: bool = True,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Completed:
        """See `Target.run`."""
        return self.container.run(argv, stdin=stdin, check=check, timeout=timeout, limit=limit)

    def attach(self, argv: Sequence[str]) -> int:
        """See `Target.attach`; the engine's terminal is joined to the user's, in raw mode."""
        if not sys.stdin.isatty():
            raise VirtrootError("standard input is no terminal", "run this from a terminal, or use ./inv exec")
        with self.container.terminal(argv) as (connection, resize):
            _join(connection, resize)
        return 0

    def holding(self, argv: Sequence[str]) -> AbstractContextManager[str]:
        """See `Target.holding`."""
        return self.container.holding(argv)


def _join(connection: socket.socket, resize: Callable[[int, int], None]) -> None:
    """Pass bytes between this terminal, in raw mode, and ``connection`` until the other end closes it."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def follow(*_: object) -> None:
        size = shutil.get_terminal_size()
        resize(size.lines, size.columns)

    previous = signal.signal(signal.SIGWINCH, follow)
    try:
        follow()
        tty.setraw(keyboard)
        while True:
            ready, _, _ = select.select([keyboard, connection], [], [])
            if connection in ready:
                data = connection.recv(1 << 16)
                if not data:
                    return
                os.write(sys.stdout.fileno(), data)
            if keyboard in ready:
                connection.sendall(os.read(keyboard, 1 << 12))
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, previous)
