"""Standard input of a command in a guest: read here piece by piece, and passed on through the agent.

A piece becomes a file next to the command's output, in the guest's memory. A shell in the guest writes the pieces to
the command in order, so at most `_AHEAD` of them are there at a time. A piece has a number: one that is sent twice,
since the agent was restarted meanwhile, is read once.
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
from pipelines.guest.agent import LARGEST_INPUT, Agent
from pipelines.host.process import Completed

#: Bytes of a piece, and pieces that the command has not read.
_PIECE, _AHEAD = 1 << 20, 2

#: Seconds that the agent may be away, and between two attempts to reach it.
_AWAY, _PAUSE = 300, 2.0

#: What the scripts below answer where the command reads no more, and where it has not read on yet.
_CLOSED, _LATER = 3, 4

#: Runs in the guest as long as the command reads, with the directory as its name: the command's input is its output.
FEED = r"""
exec 3<> "$0/more"
touch "$0/open"
next=0
while read -r number <&3; do
    if [ "$number" = end ]; then break; fi
    if [ "$number" = "$next" ]; then
        cat "$0/in.$number" || break
        rm -f "$0/in.$number"
        next=$((next + 1))
    fi
done
touch "$0/closed"
"""

# What both scripts begin with: for the first piece, before which the command may not have been started, and for others.
_FIRST = """
for _ in $(seq 50); do
    [ ! -e "$1/closed" ] || exit 3
    [ ! -e "$1/open" ] || break
    sleep 0.1
done
[ -e "$1/open" ] || exit 4
"""
_OTHERS = '[ -e "$1/open" ] && [ ! -e "$1/closed" ] || exit 3'

# Opened for reading as well: without a reader, opening the FIFO would wait for ever.
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
    """Return the descriptor that a command's input is read from.

    None stands for an empty input: a terminal, which is the user's, /dev/null, or no standard input at all. Raises
    `VirtrootError` for a directory.
    """
    try:
        descriptor = -1 if stream is None else stream.fileno()
        status = os.fstat(descriptor)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        raise VirtrootError("standard input is a directory", "name a file: < FILE, or < /dev/null for nothing")
    null = stat.S_ISCHR(status.st_mode) and status.st_rdev == Path(os.devnull).stat().st_rdev
    return None if null or os.isatty(descriptor) else descriptor


class Unsent(VirtrootError):
    """The input cannot be passed on to its end."""


class Input:
    """A thread that reads a descriptor and sends what it reads to the command whose files are in ``directory``.

    It reads as fast as the command does, until its end, the end of the command, or `close`.
    """

    def __init__(self, agent: Agent, directory: str, descriptor: int) -> None:
        self._agent, self._directory, self._descriptor = agent, directory, descriptor
        self._closed = threading.Event()
        self._wake, self._waker = os.pipe()
        self._error: VirtrootError | None = None
        self._thread = threading.Thread(target=self._pass_on, name="standard input", daemon=True)

    def start(self) -> None:
        """Begin to read; the command has been started."""
        self._thread.start()

    def check(self) -> None:
        """Raise what kept the input from the command: it would take a part for the whole."""
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
        """Return what is there, up to a piece; nothing at the end, and None when this was closed."""
        piece = bytearray()
        while len(piece) < _PIECE:
            try:
                # What has come is not kept back for what may come.
                ready, _, _ = select.select([self._descriptor, self._wake], [], [], 0 if piece else None)
                if self._wake in ready:
                    return None
                chunk = os.read(self._descriptor, _PIECE - len(piece)) if ready else b""
            except OSError as error:
                raise VirtrootError(
                    f"cannot read standard input: {error.strerror}", "see whether the file it comes from is whole"
                ) from error
            if not chunk:
                break
            piece += chunk
        return bytes(piece)

    def _has_room(self, number: int) -> bool:
        """Wait until the command has begun, and has read all but the last pieces; say whether it still reads."""
        return self._ask(lambda: self._sh(number, _WAIT, str(number - _AHEAD))) == 0

    def _send(self, number: int, piece: bytes, *, small: bool) -> bool:
        """Hand a piece over, the end of the input where it is empty; say whether the command still reads."""

        def attempt() -> Completed:
            if not small:
                self._agent.write(f"{self._directory}/in.{number}.new", piece)
            word, given = str(number) if piece else "end", "given" if small else ""
            return self._sh(number, _ANNOUNCE, word, given, stdin=piece if small else b"")

        return self._ask(attempt) == 0

    def _ask(self, attempt: Callable[[], Completed]) -> int:
        """Do something in the guest, again where its agent was restarted meanwhile; return the exit status.

        Raises `VirtrootError` where it cannot be done.
        """
        heard, status = time.monotonic(), _LATER
        while status == _LATER:
            if self._closed.is_set():
                return _CLOSED
            try:
                done = attempt()
            except VirtrootError as error:
                gone = time.monotonic() - heard > _AWAY or self._agent.hypervisor.state(self._agent.domain) != "running"
                if gone or "No space left" in error.what:
                    raise
                self._closed.wait(_PAUSE)
                continue
            heard, status = time.monotonic(), done.returncode
            if status not in (0, _CLOSED, _LATER):
                name = self._agent.name
                raise VirtrootError(
                    f"the input does not get into {name}: {done.complaint}",
                    f"see how much is free in its memory: ./inv exec {name} -- df /run",
                )
        return status

    def _sh(self, number: int, script: str, *arguments: str, stdin: bytes = b"") -> Completed:
        whole = f"{_OTHERS if number else _FIRST}\n{script}"
        return self._agent.run(["/bin/sh", "-ec", whole, "virtroot-exec", self._directory, *arguments], stdin=stdin)
