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
from pipelines.log import warn

#: Bytes of a piece: as base64 well below what libvirt passes on.
_PIECE = 1 << 20

#: Seconds after which the output of a command that still runs is passed on.
_SOON = 2.0

# Whoever makes the directory `taken` hands the output out: this shell, or the reader outside. The first letter of what
# this shell prints says who it was. The files are in the guest's memory: what goes beyond half of what is free there is
# cut, as by a reader that has seen enough.
_SHELL = r"""
umask 077
directory=$1; shift
mkdir "$directory" && mkfifo "$directory/o" "$directory/e" || exit 125
limit=$(($(df -k --output=avail /run | tail -n 1) * 512))
head -c "$limit" < "$directory/o" > "$directory/out" &
head -c "$limit" < "$directory/e" > "$directory/err" &
"$@" > "$directory/o" 2> "$directory/e" < /dev/null &
echo $! > "$directory/pid"
wait $!
status=$?
wait
out=$(wc -c < "$directory/out") err=$(wc -c < "$directory/err")
if [ $((out + err)) -le 1048576 ] && mkdir "$directory/taken" 2> /dev/null; then
    printf s; cat "$directory/out"; cat "$directory/err" >&2
    rm -rf "$directory"
elif [ "$out" -lt "$limit" ] && [ "$err" -lt "$limit" ]; then
    printf r
else
    printf 'c%s' "$limit"
fi
exit "$status"
"""

_GIVE_UP = 'kill -TERM "$(cat "$1/pid")" 2> /dev/null; rm -rf "$1"'


def run(agent: Agent, argv: Sequence[str], stdout: Callable[[bytes], object], stderr: Callable[[bytes], object]) -> int:
    """Run ``argv`` in the guest, pass its output on, and return its exit status; a signal N gives 128 + N.

    Output beyond half of the guest's free space in /run is cut, with a warning. Where this is interrupted, the command
    is ended.
    """
    directory = f"/run/virtroot-exec.{secrets.token_hex(8)}"
    pid = agent.begin(["/bin/sh", "-c", _SHELL, "virtroot-exec", directory, *argv])
    try:
        return _follow(agent, pid, directory, stdout, stderr)
    except BaseException:
        with suppress(VirtrootError):
            agent.run(["/bin/sh", "-c", _GIVE_UP, "give-up", directory])
        raise


def _follow(
    agent: Agent, pid: int, directory: str, stdout: Callable[[bytes], object], stderr: Callable[[bytes], object]
) -> int:
    begin, reader = time.monotonic(), None
    for status in agent.statuses(pid):
        if status.exited:
            who, said = status.out_data[:1], status.out_data[1:]
            if who == b"s":
                stdout(said)
                stderr(status.err_data)
            elif who in {b"r", b"c"}:
                reader = reader or _Reader(agent, directory, stdout, stderr)
                reader.rest()
            else:
                stderr(status.err_data)
            if who == b"c":
                warn(f"the output was cut after {int(said) >> 20} MiB: write more than that to a file in the guest")
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
