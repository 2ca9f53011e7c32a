"""Runs commands in a container through one program that is started there once, instead of an exec for each command.

There is one such program for each container and process. It exits with this process.
"""

from __future__ import annotations

import atexit
import json
import select
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import requests

from pipelines.engine import exec_stream
from pipelines.engine.container import Container, make_lost_error, make_mark
from pipelines.engine.exec_stream import Connection
from pipelines.errors import VirtrootError
from pipelines.host.process import Completed, make_overrun
from pipelines.target.commands import GREETING
from pipelines.text import trim

_PROGRAM = Path(__file__).with_name("commands.py")

#: Seconds that Python may take to start.
_GREETING_TIMEOUT = 60

#: Seconds that `Runner.close` waits for a thread that runs a command.
_CLOSING_TIMEOUT = 1

#: How much of the program's own error output is kept, in bytes.
_COMPLAINT = 4096

#: More input than this is streamed by an exec of its own.
_MOST_INPUT = 4 << 20


class Runner:
    """The program in one container."""

    def __init__(self, container: Container, python: str) -> None:
        self._container = container
        self._python = python
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._open = ExitStack()
        self._starts = True
        self._frames: Generator[tuple[int, bytes], None, None] | None = None
        self._left = bytearray()
        self._complaint = bytearray()
        self._deadline: float | None = None

    def run(self, argv: Sequence[str], stdin: bytes | None = None, timeout: float | None = None) -> Completed | None:
        """Run ``argv``. Return None if the caller has to use an exec: for much input, or while another thread runs one.

        Raises `VirtrootError` if the program or its container goes away, and if ``timeout`` (seconds) passes. In both
        cases the command and all that it started are killed.
        """
        if stdin is not None and len(stdin) > _MOST_INPUT:
            return None
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._asked(argv, stdin, timeout)
        except BaseException:
            # An answer that nobody reads would be taken for the next one's.
            self._close()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the program."""
        # A Ctrl-C at the wrong moment leaves the lock taken for ever.
        taken = self._lock.acquire(timeout=_CLOSING_TIMEOUT)
        self._close()
        if taken:
            self._lock.release()

    def has_ended(self) -> bool:
        """Say whether the program was started and has exited since."""
        return self._connection is not None and not self._lock.locked() and not self._stands()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            exec_stream.cut(connection.socket)
        if self._frames is not None:
            # What reads from the socket keeps it open.
            self._frames.close()
        with suppress(OSError):
            self._open.close()

    def _asked(self, argv: Sequence[str], stdin: bytes | None, timeout: float | None) -> Completed | None:
        if not self._stands():
            self._close()
            self._start()
        connection = self._connection
        if connection is None:
            return None
        mark = make_mark()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        asked = {"argv": list(argv), "env": mark, "stdin": None if stdin is None else len(stdin)}
        try:
            self._heed_deadline(connection)
            connection.socket.sendall(json.dumps(asked).encode() + b"\n" + (stdin or b""))
            answer = json.loads(self._line())
            out, err = self._take(answer["out"]), self._take(answer["err"])
        except (OSError, EOFError) as error:
            # First, so that the program does not run a request that it has not read yet.
            exec_stream.cut(connection.socket)
            with suppress(VirtrootError):
                self._container.end(mark)
            self._close()
            # ETIMEDOUT, of a network, is a TimeoutError too.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise make_overrun(argv, timeout) from None
            raise make_lost_error(argv, error) from error
        return Completed(tuple(argv), answer["status"], out, err)

    def _stands(self) -> bool:
        """Return whether the program waits for a request. Unexpected output, or its end, makes it unusable."""
        if self._connection is None:
            return False
        with suppress(OSError, ValueError):
            return not self._left and not select.select([self._connection.socket], [], [], 0)[0]
        return False

    def _start(self) -> None:
        """Start the program and wait for its greeting. If that fails, `_connection` stays None."""
        if not self._starts:
            return
        self._deadline = time.monotonic() + _GREETING_TIMEOUT
        program = [self._python, "-I", "-c", _PROGRAM.read_text(encoding="utf-8")]
        try:
            connection = self._open.enter_context(self._container.run_attached(program))
            self._left.clear()
            self._complaint.clear()
            self._frames = exec_stream.read_frames(connection)
            self._connection = connection
            if self._line() != GREETING:
                raise EOFError("that was another program")
        except (requests.RequestException, OSError, EOFError):
            # The caller uses an exec instead, whose error gives the reason.
            self._starts = False
            self._close()

    def _line(self) -> bytes:
        while (end := self._left.find(b"\n")) < 0:
            self._read()
        return self._take(end + 1)

    def _take(self, size: int) -> bytes:
        while len(self._left) < size:
            self._read()
        taken = bytes(self._left[:size])
        del self._left[:size]
        return taken

    def _read(self) -> None:
        if self._connection is not None:
            self._heed_deadline(self._connection)
        for stream, chunk in self._frames or ():
            if stream == 1:
                self._left += chunk
                return
            self._complaint = (self._complaint + chunk)[-_COMPLAINT:]
        raise EOFError(trim(self._complaint.decode(errors="replace")) or "the connection ended")

    def _heed_deadline(self, connection: Connection) -> None:
        """Let the next operation on the socket take no longer than is left; raises TimeoutError if nothing is."""
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        connection.socket.settimeout(left)


_runners: dict[str, Runner] = {}


def of(container: Container, python: str) -> Runner:
    """Return the runner in ``container``, which starts with its first command."""
    if container.id not in _runners:
        for each in [name for name, runner in _runners.items() if runner.has_ended()]:
            _runners.pop(each).close()
    return _runners.setdefault(container.id, Runner(container, python))


@atexit.register
def _close_all() -> None:
    for runner in _runners.values():
        runner.close()
