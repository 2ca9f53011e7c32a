"""Where commands run: on this machine, or in a container (the builder, the embedded hypervisor)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pipelines import lazy, log
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.feed import Source
from pipelines.host.process import Completed
from pipelines.target import relay

with lazy.imports():
    # docker is not needed where libvirt is on this machine.
    from pipelines.engine import engine as engines
    from pipelines.engine import exec_stream
    from pipelines.target import runner

# If nc cannot connect, it has not read any input yet, so it can be started again.
_RELAY = """
end=$(($(date +%s) + $1))
until nc -N -- "$2" "$3"; do
    if [ "$(date +%s)" -gt "$end" ]; then exit 1; fi
    sleep 0.5
done
"""


class Target(Protocol):
    """A machine where commands run, with its programs, its files and its libvirt."""

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

    def relay(self, address: str, port: int) -> None:
        """Connect standard input and output with a port that the target can reach, until the connection is closed."""

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

    def relay(self, address: str, port: int) -> None:
        """See `Target.relay`."""
        relay.relay(address, port)

    def holding(self, argv: Sequence[str]) -> AbstractContextManager[str]:
        """See `Target.holding`."""
        return process.hold(argv)


@dataclass(frozen=True)
class InContainer:
    """A container that virtroot started."""

    container: engines.Container
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
        log.detail(argv)
        if limit is None and (stdin is None or isinstance(stdin, bytes)):
            done = runner.of(self.container, self.python).run(argv, stdin, timeout)
            if done is not None:
                if check and done.returncode:
                    raise process.make_failure(done)
                return done
        return self.container.run(argv, stdin=stdin, check=check, timeout=timeout, limit=limit)

    def attach(self, argv: Sequence[str]) -> int:
        """See `Target.attach`; the engine's terminal is joined to the user's, in raw mode."""
        if not sys.stdin.isatty():
            raise VirtrootError("standard input is not a terminal", "run this from a terminal, or use ./inv exec")
        with self.container.terminal(argv) as (connection, resize):
            _join(connection, resize)
        return 0

    def relay(self, address: str, port: int) -> None:
        """See `Target.relay`."""
        argv = ["sh", "-c", _RELAY, "relay", str(relay.PATIENCE), address, str(port)]
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
            done = self.container.run(argv, stdin=stdin, stdout=relay.write, check=False)
        if done.returncode:
            raise VirtrootError(
                f"nothing answers at {address} port {port}", "see whether sshd runs in the guest", done.complaint
            )

    def holding(self, argv: Sequence[str]) -> AbstractContextManager[str]:
        """See `Target.holding`."""
        return self.container.hold(argv)


def _join(joined: exec_stream.Connection, resize: Callable[[int, int], None]) -> None:
    """Pass bytes between this terminal, in raw mode, and what is ``joined`` until the other end closes it."""
    connection = joined.socket
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def follow(*_: object) -> None:
        size = shutil.get_terminal_size()
        resize(size.lines, size.columns)

    previous = signal.signal(signal.SIGWINCH, follow)
    try:
        follow()
        tty.setraw(keyboard)
        relay.write(joined.early)
        while True:
            ready, _, _ = select.select([keyboard, connection], [], [])
            if connection in ready:
                data = connection.recv(1 << 16)
                if not data:
                    return
                relay.write(data)
            if keyboard in ready:
                connection.sendall(os.read(keyboard, 1 << 12))
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, previous)
