"""A command in a guest whose output is passed on while it runs, whatever its size.

The agent keeps a command's output until its end, and libvirt passes on about 3 MiB of it at most. So a shell in the
guest writes the output to two files. What ends soon and printed little is handed out by that shell; of anything else
the files are read piece by piece.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pipelines.errors import VirtrootError
from pipelines.guest.agent import Agent

#: Bytes of a piece: as base64 well below what libvirt passes on.
_PIECE = 1 << 20

#: Seconds after which the output of a command that still runs is passed on.
_SOON = 2.0

# Whoever makes the directory `taken` hands the output out: this shell, or the reader outside. The first letter of what
# this shell prints says who it was.
_SHELL = r"""
umask 077
directory=$1; shift
mkdir "$directory" || exit 125
"$@" > "$directory/out" 2> "$directory/err" < /dev/null
status=$?
size=$(($(wc -c < "$directory/out") + $(wc -c < "$directory/err")))
if [ "$size" -le 1048576 ] && mkdir "$directory/taken" 2> /dev/null; then
    printf s; cat "$directory/out"; cat "$directory/err" >&2
    rm -rf "$directory"
else
    printf r
fi
exit "$status"
"""


def run(agent: Agent, argv: Sequence[str], stdout: Callable[[bytes], object], stderr: Callable[[bytes], object]) -> int:
    """Run ``argv`` in the guest, pass its output on, and return its exit status; a signal N gives 128 + N."""
    directory = f"/run/virtroot-exec.{secrets.token_hex(8)}"
    pid = agent.begin(["/bin/sh", "-c", _SHELL, "virtroot-exec", directory, *argv])
    begin, reader = time.monotonic(), None
    for status in agent.statuses(pid):
        if status.exited:
            if status.out_data.startswith(b"s"):
                stdout(status.out_data[1:])
                stderr(status.err_data)
            elif status.out_data.startswith(b"r"):
                reader = reader or _Reader(agent, directory, stdout, stderr)
                reader.rest()
            else:
                stderr(status.err_data)
            return status.returncode
        if reader is None and time.monotonic() - begin > _SOON and _take(agent, directory):
            reader = _Reader(agent, directory, stdout, stderr)
        if reader:
            reader.more()
    raise AssertionError("statuses end with one that has exited")


def _take(agent: Agent, directory: str) -> bool:
    return agent.run(["/bin/mkdir", f"{directory}/taken"]).returncode == 0


class _Reader:
    """Passes on what the two files have got since it last looked."""

    def __init__(
        self, agent: Agent, directory: str, stdout: Callable[[bytes], object], stderr: Callable[[bytes], object]
    ) -> None:
        self._agent, self._directory = agent, directory
        self._files = [(agent.open(f"{directory}/{name}"), sink) for name, sink in (("out", stdout), ("err", stderr))]

    def more(self) -> None:
        for handle, sink in self._files:
            while (piece := self._agent.read(handle, _PIECE)).content:
                sink(piece.content)
                if piece.eof:
                    break

    def rest(self) -> None:
        self.more()
        with suppress(VirtrootError):
            for handle, _ in self._files:
                self._agent.close(handle)
            self._agent.run(["/bin/rm", "-rf", self._directory])
