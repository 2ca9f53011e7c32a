"""Running a command in a guest: its input and output are passed on while it runs, in any size.

The agent collects the output until the command ends, and libvirt passes on at most about 3 MiB of it. Therefore a shell
in the guest writes the output to two files. If the command ends soon and printed little, this shell prints the output;
otherwise the files are read in pieces. The status is in a file, too: an upgrade in the guest restarts the agent, and a
new agent does not know the command. `standard_input` passes on the input.

The command gets the environment of a root login: home, PATH, working directory and umask. It does not inherit the umask
that protects virtroot's files in the guest, nor the environment of the agent's unit.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.guest import standard_input
from pipelines.guest.agent import Agent, Status
from pipelines.log import warn
from pipelines.text import trim

#: Bytes of a piece; as base64 it is well below the limit of libvirt.
_PIECE = 1 << 20

#: Seconds after which the output of a command that is still running is passed on.
_FIRST_OUTPUT_SECONDS = 2.0

#: Seconds that the agent may be unreachable, and between two polls of a command that the agent does not know any more.
_AWAY_SECONDS, _POLL_SECONDS = 300, 2.0

# The command leaves the agent's control group, whose processes end when a package's script restarts the agent. A guest
# without systemd has no such group.
_BEGIN = r"""
if [ -d /run/systemd/system ] && command -v systemd-run > /dev/null; then
    # The default description is the whole script, and systemd would interpret its lines.
    exec systemd-run --scope --quiet --collect --description="a command of virtroot's" -- /bin/sh -c "$@"
fi
exec /bin/sh -c "$@"
"""

_SHELL = Path(__file__).with_name("run_command.sh").read_text(encoding="utf-8")

_LOGIN = Path(__file__).with_name("login.sh").read_text(encoding="utf-8")

_TAKE = '[ -e "$1/out" ] && [ -e "$1/err" ] && mkdir "$1/taken"'
# If the command has not started, this creates its directory, so that it does not start later.
_GIVE_UP = """
if mkdir "$1" 2> /dev/null; then exit; fi
# A command that has not written its process id yet cannot do so after this, and exits.
mv "$1" "$1.ended" || exit
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if [ ! -e "$1.ended/pid" ]; then break; fi
    if [ -s "$1.ended/pid" ]; then kill -TERM "-$(cat "$1.ended/pid")"; break; fi
    sleep 0.1
done
rm -rf "$1.ended"
"""
_STATE = """
if [ -e "$1/status" ]; then echo ended
elif [ -d "$1" ] && kill -0 "$(cat "$1/shell")" 2> /dev/null; then echo runs
else echo lost; fi
"""

Sink = Callable[[bytes], object]


def run(
    agent: Agent, argv: Sequence[str], stdout: Sink, stderr: Sink, *, stdin: int | None = None, memory: str = "/run"
) -> int:
    """Run ``argv`` in the guest, pass its output on, and return its exit status, which is 128 + N for a signal N.

    ``stdin`` is the descriptor to read the input from, see `standard_input`; None means no input. ``memory`` is the
    directory in the guest for input and output. Output beyond a quarter of the free space there is cut, with a warning.
    An interrupt ends the command and its children.
    """
    directory = f"{memory}/virtroot-exec.{secrets.token_hex(8)}"
    given = None if stdin is None else standard_input.Input(agent, directory, stdin)
    reader = _Reader(agent, directory, stdout, stderr, check=given.check if given else lambda: None)
    feed = standard_input.FEED if given else ""
    try:
        pid = agent.start_command(
            ["/bin/sh", "-c", _BEGIN, "begin", _SHELL, "virtroot-exec", directory, _LOGIN, feed, *argv]
        )
        if given:
            given.start()
        status = _follow(agent, pid, reader)
    except BaseException:
        with suppress(VirtrootError):
            agent.run(["/bin/sh", "-c", _GIVE_UP, "give-up", directory])
        raise
    finally:
        if given:
            given.close()
    with suppress(VirtrootError):
        agent.start_command(["/bin/rm", "-rf", directory])
    return status


def _follow(agent: Agent, pid: int, reader: _Reader) -> int:
    ended = _wait_for_end(agent, pid, reader)
    if ended is None:
        return reader.wait_for_status()
    who, said = ended.out_data[:1], ended.out_data[1:]
    if who == b"r":
        return reader.pass_on_rest(ended.returncode)
    if who == b"s":
        reader.stdout(said)
    reader.stderr(ended.err_data)
    return ended.returncode


def _wait_for_end(agent: Agent, pid: int, reader: _Reader) -> Status | None:
    """Return the agent's status of the command when it has ended, or None if the agent does not report it any more."""
    begin = time.monotonic()
    try:
        for status in agent.poll(pid):
            if status.exited:
                return status
            reader.check()
            if time.monotonic() - begin > _FIRST_OUTPUT_SECONDS:
                reader.pass_on_new()
    except standard_input.Unsent:
        raise
    except VirtrootError:
        # The agent was restarted, or nobody received its answer that reported the end.
        if agent.hypervisor.state(agent.domain) != "running":
            raise
    return None


class _Reader:
    """Passes on what the two output files have gained since the last call. ``check`` raises an error of the input."""

    def __init__(self, agent: Agent, directory: str, stdout: Sink, stderr: Sink, check: Callable[[], object]) -> None:
        self.stdout, self.stderr, self.check = stdout, stderr, check
        self._agent, self._directory = agent, directory
        self._files: list[tuple[int, Sink]] = []
        self._passed = {"out": 0, "err": 0}

    def pass_on_new(self) -> None:
        """Pass on the new output, unless the shell in the guest prints it."""
        if not self._files and self._run_script(_TAKE) is None:
            return
        self._pass_on()

    def pass_on_rest(self, known: int | None = None) -> int:
        """Pass on the rest of the output and return the status of a command that has ended; ``known`` is the status."""
        answer = self._run_script('cat "$1/status"')
        if answer is None and known is None:
            raise self._make_lost_error()
        self._pass_on()
        status, _, cut = trim(answer or f"{known} cut").partition(" ")
        if cut:
            warn(f"output was cut: /run of {self._agent.name} is full; write it to a file in the guest")
        if not status.isdigit():
            raise VirtrootError(f"the agent of {self._agent.name} reports the status {status!r}", "check the guest")
        return int(status)

    def wait_for_status(self) -> int:
        """Wait until the command has ended and do `pass_on_rest`; also works if the agent is restarted meanwhile."""
        heard = time.monotonic()
        while True:
            self.check()
            try:
                state = self._run_script(_STATE)
                heard = time.monotonic()
            except VirtrootError:
                if (
                    time.monotonic() - heard > _AWAY_SECONDS
                    or self._agent.hypervisor.state(self._agent.domain) != "running"
                ):
                    raise
                state = "runs"
            if state == "ended":
                # A restarted agent does not know the handles of the earlier one.
                self._files = []
                return self.pass_on_rest()
            if state != "runs":
                raise self._make_lost_error()
            time.sleep(_POLL_SECONDS)

    def _make_lost_error(self) -> VirtrootError:
        return VirtrootError(
            f"the command and its status are lost: {self._agent.name} was restarted, or ended the command",
            f"check the logs: ./inv logs {self._agent.name}",
        )

    def _pass_on(self) -> None:
        names = ("out", "err")
        if not self._files:
            sinks = (self.stdout, self.stderr)
            self._files = [
                (self._agent.open(f"{self._directory}/{name}", self._passed[name]), sink)
                for name, sink in zip(names, sinks, strict=True)
            ]
        for name, (handle, sink) in zip(names, self._files, strict=True):
            while (piece := self._agent.read(handle, _PIECE)).content:
                sink(piece.content)
                self._passed[name] += len(piece.content)
                if piece.eof:
                    break

    def _run_script(self, script: str) -> str | None:
        """Return the output of a script that runs in the guest with the directory as argument; None if it fails."""
        done = self._agent.run(["/bin/sh", "-c", script, "virtroot-exec", self._directory])
        return done.text if done.returncode == 0 else None
