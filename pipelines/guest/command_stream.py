"""A command in a guest whose input and output are passed on while it runs, whatever their size.

The agent keeps a command's output until its end, and libvirt passes on about 3 MiB of it at most. So a shell in the
guest writes the output to two files. What ends soon and printed little is handed out by that shell; of anything else
the files are read piece by piece. The status is in a file, too: an upgrade inside the guest restarts the agent, which
then knows nothing of the command. Input is passed on by `standard_input`.

The command has what a login of root's has: its home, PATH, working directory and umask. What protects virtroot's own
files in the guest, and what the agent's unit has, is not the command's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pipelines.errors import VirtrootError
from pipelines.guest import standard_input
from pipelines.guest.agent import Agent, Status
from pipelines.log import warn
from pipelines.text import trim

#: Bytes of a piece: as base64 well below what libvirt passes on.
_PIECE = 1 << 20

#: Seconds after which the output of a command that still runs is passed on.
_SOON = 2.0

#: Seconds that the agent may be away, and between two looks at a command that it does not know any more.
_AWAY, _LOOK = 300, 2.0

# Out of the agent's own control group, whose processes end when a package's script restarts it. Where no systemd runs
# there is no such group.
_BEGIN = r"""
if [ -d /run/systemd/system ] && command -v systemd-run > /dev/null; then
    # What it would describe itself, the whole script, has lines that systemd takes for its own.
    exec systemd-run --scope --quiet --collect --description="a command of virtroot's" -- /bin/sh -c "$@"
fi
exec /bin/sh -c "$@"
"""

# Whoever makes the directory `taken` hands the output out: this shell, or the reader outside. The first letter of what
# this shell prints says who it was. The files are in the guest's memory: each takes a quarter of what is free there,
# and what goes beyond is cut, as by a reader that has seen enough. A child that the command leaves behind keeps the
# pipes open; it is not waited for.
_SHELL = r"""
umask 077
directory=$1 login=$2 feed=$3; shift 3
mkdir "$directory" && echo $$ > "$directory/shell" && mkfifo "$directory/o" "$directory/e" || exit 125
limit=$(($(df -k --output=avail "$directory" | tail -n 1) * 256))
stdbuf -o0 head -c "$limit" < "$directory/o" > "$directory/out" &
first=$!
stdbuf -o0 head -c "$limit" < "$directory/e" > "$directory/err" &
second=$!
input=/dev/null feeder=
if [ -n "$feed" ]; then
    input=$directory/i
    mkfifo "$directory/more" "$input" || exit 125
    setsid /bin/sh -c "$feed" "$directory" < /dev/null > "$input" 2> /dev/null &
    feeder=$!
fi
setsid /bin/sh -c "$login" "$directory" "$@" > "$directory/o" 2> "$directory/e" < "$input"
status=$?
rm -f "$directory/pid"
touch "$directory/closed"
# Before it has a session of its own, it has no process group either.
if [ -n "$feeder" ]; then kill -TERM "-$feeder" 2> /dev/null || kill -TERM "$feeder" 2> /dev/null; fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$first" 2> /dev/null || kill -0 "$second" 2> /dev/null || break
    sleep 0.1
done
kill "$first" "$second" 2> /dev/null
out=$(wc -c < "$directory/out") err=$(wc -c < "$directory/err")
cut=
free=$(df -k --output=avail "$directory" | tail -n 1)
if [ "$out" -ge "$limit" ] || [ "$err" -ge "$limit" ] || [ "$free" -lt 64 ]; then cut=c; fi
printf '%s %s\n' "$status" "$cut" > "$directory/status.new" && mv "$directory/status.new" "$directory/status"
if [ $((out + err)) -le 1048576 ] && [ -z "$cut" ] && mkdir "$directory/taken" 2> /dev/null; then
    printf s; cat "$directory/out"; cat "$directory/err" >&2
else
    printf r
fi
exit "$status"
"""

# What the command is started by. A login has what /etc/environment says, too: the settings of a proxy, for example.
_LOGIN = r"""
echo $$ > "$0/pid" || exit 125
umask 022
unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID NOTIFY_SOCKET MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
while IFS=: read -r USER _ uid _ _ HOME SHELL; do
    if [ "$uid" = 0 ]; then break; fi
done < /etc/passwd
USER=${USER:-root} HOME=${HOME:-/root} SHELL=${SHELL:-/bin/sh} LOGNAME=${USER:-root}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export USER HOME SHELL LOGNAME PATH
if [ -r /etc/environment ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#export } name=${line%%=*} value=${line#*=}
        case $name in "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
        case $value in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
        export "$name=$value"
    done < /etc/environment
fi
cd "$HOME" 2> /dev/null || cd /
unset OLDPWD uid line name value
exec "$@"
"""

_TAKE = '[ -e "$1/out" ] && [ -e "$1/err" ] && mkdir "$1/taken"'
# A command that has not begun finds its directory taken, and does not.
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
    """Run ``argv`` in the guest, pass its output on, and return its exit status; a signal N gives 128 + N.

    ``stdin`` is the descriptor that its input is read from, see `standard_input`; without one it has none. ``memory``
    is the guest's directory for what passes between. Of each output what goes beyond a quarter of the free space there
    is cut, with a warning. Where this is interrupted, the command and its children are ended.
    """
    directory = f"{memory}/virtroot-exec.{secrets.token_hex(8)}"
    given = None if stdin is None else standard_input.Input(agent, directory, stdin)
    reader = _Reader(agent, directory, stdout, stderr, check=given.check if given else lambda: None)
    feed = standard_input.FEED if given else ""
    try:
        pid = agent.begin(["/bin/sh", "-c", _BEGIN, "begin", _SHELL, "virtroot-exec", directory, _LOGIN, feed, *argv])
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
        agent.begin(["/bin/rm", "-rf", directory])
    return status


def _follow(agent: Agent, pid: int, reader: _Reader) -> int:
    ended = _until_it_ends(agent, pid, reader)
    if ended is None:
        return reader.wait()
    who, said = ended.out_data[:1], ended.out_data[1:]
    if who == b"r":
        return reader.rest(ended.returncode)
    if who == b"s":
        reader.stdout(said)
    reader.stderr(ended.err_data)
    return ended.returncode


def _until_it_ends(agent: Agent, pid: int, reader: _Reader) -> Status | None:
    """Return what the agent says of the command's end; None where it says nothing any more."""
    begin = time.monotonic()
    try:
        for status in agent.statuses(pid):
            if status.exited:
                return status
            reader.check()
            if time.monotonic() - begin > _SOON:
                reader.more()
    except standard_input.Unsent:
        raise
    except VirtrootError:
        # The agent was restarted, or gave its last answer to nobody.
        if agent.hypervisor.state(agent.domain) != "running":
            raise
    return None


class _Reader:
    """Passes on what the two files have got since it last looked. ``check`` raises what ends the command early."""

    def __init__(self, agent: Agent, directory: str, stdout: Sink, stderr: Sink, check: Callable[[], object]) -> None:
        self.stdout, self.stderr, self.check = stdout, stderr, check
        self._agent, self._directory = agent, directory
        self._files: list[tuple[int, Sink]] = []
        self._passed = {"out": 0, "err": 0}

    def more(self) -> None:
        """Pass on what there is, if it is not handed out by the shell in the guest."""
        if not self._files and self._sh(_TAKE) is None:
            return
        self._read()

    def rest(self, known: int | None = None) -> int:
        """Pass on what is left of a command that has ended, and return its status, which may be ``known`` already."""
        answer = self._sh('cat "$1/status"')
        if answer is None and known is None:
            raise self._lost()
        self._read()
        status, _, cut = trim(answer or f"{known} cut").partition(" ")
        if cut:
            warn(f"output beyond what fits into {self._agent.name}'s /run was cut: write that much to a file there")
        if not status.isdigit():
            raise VirtrootError(f"the agent of {self._agent.name} tells {status!r} for a status", "look at the guest")
        return int(status)

    def wait(self) -> int:
        """Do `rest` when the command has ended, whatever agent answers by then."""
        heard = time.monotonic()
        while True:
            self.check()
            try:
                state = self._sh(_STATE)
                heard = time.monotonic()
            except VirtrootError:
                if time.monotonic() - heard > _AWAY or self._agent.hypervisor.state(self._agent.domain) != "running":
                    raise
                state = "runs"
            if state == "ended":
                # Handles are an agent's own.
                self._files = []
                return self.rest()
            if state != "runs":
                raise self._lost()
            time.sleep(_LOOK)

    def _lost(self) -> VirtrootError:
        return VirtrootError(
            f"the command and its status are lost in {self._agent.name}: it was restarted, or ended it",
            f"look at what happened: ./inv logs {self._agent.name}",
        )

    def _read(self) -> None:
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

    def _sh(self, script: str) -> str | None:
        """Return what a script in the guest prints, which is given the directory; None where it fails."""
        done = self._agent.run(["/bin/sh", "-c", script, "virtroot-exec", self._directory])
        return done.text if done.returncode == 0 else None
