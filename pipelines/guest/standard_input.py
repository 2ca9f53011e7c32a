"""Standard input of a command in a guest: it is read in pieces, and passed on through the agent.

A piece becomes a file in the guest's memory, next to the command's output. A shell in the guest writes the pieces to
the command in order, so that there are at most `_AHEAD` of them at a time. A piece has a number, so that one that is
sent twice because the agent was restarted is read only once.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pipelines.errors import VirtrootError
from pipelines.guest.agent import LARGEST_INPUT, Agent, GuestFull
from pipelines.host.process import Completed

#: Bytes of a piece, and how many pieces may be in the guest that the command has not read.
_PIECE, _AHEAD = 1 << 20, 2

#: Seconds that the agent may be unreachable, and between two attempts to reach it.
_AWAY_SECONDS, _RETRY_SECONDS = 300, 2.0

#: Exit status of the scripts below if the command does not read any more, and if it has not read enough yet.
_CLOSED, _LATER = 3, 4

#: Runs in the guest while the command reads; its $0 is the directory, and its output is the command's input.
FEED = Path(__file__).with_name("feed_input.sh").read_text(encoding="utf-8")

# The beginning of both scripts: for the first piece, when the command may not have been started yet, and for the rest.
_FIRST = """
for _ in $(seq 50); do
    [ ! -e "$1/closed" ] || exit 3
    [ ! -e "$1/open" ] || break
    sleep 0.1
done
[ -e "$1/open" ] || exit 4
"""
_OTHERS = '[ -e "$1/open" ] && [ ! -e "$1/closed" ] || exit 3'

# Opened for reading as well: without a reader, opening the FIFO would block forever.
_ANNOUNCE = """
if [ "$2" = end ]; then echo end 1<> "$1/more"; exit; fi
[ -z "$3" ] || cat > "$1/in.$2.new"
mv "$1/in.$2.new" "$1/in.$2"
echo "$2" 1<> "$1/more"
"""

_WAIT = """
for _ in $(seq 300); do
    [ ! -e "$1/closed" ] || exit 3
    [ -e "$1/in.$2" ] || exit 0
    sleep 0.1
done
exit 4
"""


def find_descriptor(stream: TextIO | None) -> int | None:
    """Return the descriptor from which a command's input is read.

    Returns None for an empty input: a terminal, which stays the user's, /dev/null, or no standard input at all. Raises
    `VirtrootError` for a directory.
    """
    try:
        descriptor = -1 if stream is None else stream.fileno()
        status = os.fstat(descriptor)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        raise VirtrootError("standard input is a directory", "use < FILE, or < /dev/null for no input")
    null = stat.S_ISCHR(status.st_mode) and status.st_rdev == Path(os.devnull).stat().st_rdev
    return None if null or os.isatty(descriptor) else descriptor


class Unsent(VirtrootError):
    """The rest of the input cannot be passed on."""


class Input:
    """A thread that reads a descriptor and sends the content to the command whose files are in ``directory``.

    It reads only as fast as the command does, until the end of the input or of the command, or until `close`.
    """

    def __init__(self, agent: Agent, directory: str, descriptor: int) -> None:
        self._agent, self._directory, self._descriptor = agent, directory, descriptor
        self._closed = threading.Event()
        self._wake, self._waker = os.pipe()
        self._error: VirtrootError | None = None
        self._thread = threading.Thread(target=self._pass_on, name="standard input", daemon=True)

    def start(self) -> None:
        """Begin to read; call it after the command was started."""
        self._thread.start()

    def check(self) -> None:
        """Raise the error that stopped the input: the command would take a part of it for all."""
        if self._error:
            raise self._error

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        os.close(self._waker)
        if not self._thread.ident:
            os.close(self._wake)

    def _pass_on(self) -> None:
        number = 0
        try:
            while (piece := self._read()) is not None:
                small = len(piece) <= LARGEST_INPUT
                if not (small and number < _AHEAD) and not self._has_room(number):
                    return
                if not self._send(number, piece, small=small) or not piece:
                    return
                number += 1
        except VirtrootError as error:
            self._error = Unsent(error.what, error.hint, error.detail)
        finally:
            os.close(self._wake)

    def _read(self) -> bytes | None:
        """Return what can be read, at most one piece; nothing at the end of the input, and None after `close`."""
        piece = bytearray()
        while len(piece) < _PIECE:
            try:
                # Do not wait for more input while there is some to pass on.
                ready, _, _ = select.select([self._descriptor, self._wake], [], [], 0 if piece else None)
                if self._wake in ready:
                    return None
                chunk = os.read(self._descriptor, _PIECE - len(piece)) if ready else b""
            except OSError as error:
                raise VirtrootError(
                    f"cannot read standard input: {error.strerror}", "check the file that it comes from"
                ) from error
            if not chunk:
                break
            piece += chunk
        return bytes(piece)

    def _has_room(self, number: int) -> bool:
        """Wait until the command has begun and has read all but the last pieces; return whether it still reads."""
        return self._retry(lambda: self._run_script(number, _WAIT, str(number - _AHEAD))) == 0

    def _send(self, number: int, piece: bytes, *, small: bool) -> bool:
        """Send a piece, or the end of the input if it is empty; return whether the command still reads."""

        def attempt() -> Completed:
            if not small:
                self._agent.write(f"{self._directory}/in.{number}.new", piece)
            word, given = str(number) if piece else "end", "given" if small else ""
            return self._run_script(number, _ANNOUNCE, word, given, stdin=piece if small else b"")

        return self._retry(attempt) == 0

    def _retry(self, attempt: Callable[[], Completed]) -> int:
        """Call ``attempt``, again if the agent was restarted meanwhile; return the exit status.

        Raises `VirtrootError` if it fails.
        """
        heard, status = time.monotonic(), _LATER
        while status == _LATER:
            if self._closed.is_set():
                return _CLOSED
            try:
                done = attempt()
            except VirtrootError as error:
                gone = (
                    time.monotonic() - heard > _AWAY_SECONDS
                    or self._agent.hypervisor.state(self._agent.domain) != "running"
                )
                if gone or isinstance(error, GuestFull):
                    raise
                self._closed.wait(_RETRY_SECONDS)
                continue
            heard, status = time.monotonic(), done.returncode
            if status not in (0, _CLOSED, _LATER):
                name = self._agent.name
                raise VirtrootError(
                    f"cannot pass the input on to {name}: {done.complaint}",
                    f"check the free space in its memory: ./inv exec {name} -- df /run",
                )
        return status

    def _run_script(self, number: int, script: str, *arguments: str, stdin: bytes = b"") -> Completed:
        whole = f"{_OTHERS if number else _FIRST}\n{script}"
        return self._agent.run(["/bin/sh", "-ec", whole, "virtroot-exec", self._directory, *arguments], stdin=stdin)
