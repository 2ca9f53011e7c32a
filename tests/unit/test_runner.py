"""Commands that are run by a program which stands in a container; here it stands on this machine."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from pipelines.engine.container import Container
from pipelines.engine.exec_stream import Connection
from pipelines.errors import VirtrootError
from pipelines.target import commands, runner
from pipelines.target.runner import Runner
from pipelines.target.target import InContainer


class Here:
    """Stands for a container: its programs run on this machine, their output in the engine's frames."""

    def __init__(self) -> None:
        self.id = f"here-{id(self)}"
        self.children: list[subprocess.Popen[bytes]] = []
        self.ran: list[Sequence[str]] = []
        self.ended: list[Mapping[str, str]] = []

    @contextmanager
    def run_attached(self, argv: Sequence[str]) -> Iterator[Connection]:
        ours, theirs = socket.socketpair()
        how: dict[str, Any] = {"stdin": theirs.fileno(), "env": {"PATH": os.environ["PATH"]}}
        with (
            ours,
            theirs,
            subprocess.Popen(list(argv), stdout=subprocess.PIPE, **how) as child,
        ):
            self.children.append(child)

            def pump() -> None:
                with suppress(OSError):  # cut off
                    while chunk := cast("Any", child.stdout).read1(1 << 16):
                        theirs.sendall(struct.pack(">BxxxL", 1, len(chunk)) + chunk)
                    theirs.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=pump)
            thread.start()
            try:
                yield Connection(ours)
            finally:
                thread.join(10)
                assert not thread.is_alive()

    def end(self, mark: Mapping[str, str]) -> None:
        """Kill what has the mark, as the container does."""
        self.ended.append(mark)
        ((name, value),) = mark.items()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"{name}={value}".encode() in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def run(self, argv: Sequence[str], **_: Any) -> str:
        self.ran.append(argv)
        return "by an exec of its own"


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def run(here: Here) -> Iterator[Callable[..., Any]]:
    made = Runner(cast("Container", here), sys.executable)
    yield made.run
    made.close()
    assert all(child.poll() is not None for child in here.children)


def test_a_command_has_its_words_its_input_and_its_environment(run: Callable[..., Any], here: Here) -> None:
    blob = os.urandom(3 << 20)
    done = run(["sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "a \udcff\nb"], blob)
    assert (done.returncode, done.stdout, done.stderr) == (3, blob, b"a \xff\nb\n")
    assert run(["cat"]).stdout == b""
    assert run(["cat"], b"").stdout == b""
    # As the engine gives it, and the mark: Python, that runs it, adds nothing.
    assert {line.partition(b"=")[0] for line in run(["env"]).stdout.splitlines()} == {b"PATH", b"VIRTROOT_COMMAND"}
    assert run(["cat"], b"once more").stdout == b"once more"
    process, session = run(["cut", "-d ", "-f1,6", "/proc/self/stat"]).stdout.split()
    assert process == session
    assert len(here.children) == 1


def test_a_command_that_does_not_run_or_is_killed_has_the_status_of_a_shell(run: Callable[..., Any]) -> None:
    missing = run(["no-such-program"])
    assert (missing.returncode, missing.stderr) == (127, b"no-such-program: No such file or directory\n")
    assert run(["/etc"]).returncode == 126
    assert run(["true", "a\0b"]).returncode == 126
    assert run(["sh", "-c", "kill -KILL $$"]).returncode == 128 + signal.SIGKILL
    assert run(["true"]).returncode == 0


def test_a_container_that_goes_away_is_said_and_the_next_command_has_a_program_again(
    run: Callable[..., Any], here: Here
) -> None:
    run(["true"])
    here.children[0].kill()
    here.children[0].wait()
    time.sleep(0.1)
    assert run(["echo", "again"]).stdout == b"again\n"
    with pytest.raises(VirtrootError, match="the container that ran sh ended"):
        run(["sh", "-c", f"kill -KILL {here.children[1].pid}; sleep 0.2"])
    assert run(["echo", "again"]).stdout == b"again\n"
    assert len(here.children) == 3


def test_who_is_interrupted_reads_no_answer_of_another_command(run: Callable[..., Any]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(["sh", "-c", "sleep 1; echo late"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert run(["echo", "own"]).stdout == b"own\n"


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(
    run: Callable[..., Any], here: Here, tmp_path: Path
) -> None:
    script = f"(sleep 60; true) & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(VirtrootError, match=r"sh did not end within 0\.5 s"):
        run(["sh", "-c", script], None, 0.5)
    assert len(here.ended) == 1
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/exe").exists()
    assert run(["echo", "own"], None, 5.0).stdout == b"own\n"
    assert run(["echo", "own"]).stdout == b"own\n"


def test_a_command_ends_though_something_that_it_started_keeps_its_output(run: Callable[..., Any]) -> None:
    """It is waited for as long as the engine waits, which ends an exec."""
    began = time.monotonic()
    assert run(["sh", "-c", "sleep 30 & echo said"]).stdout == b"said\n"
    assert 1 < time.monotonic() - began < 20
    assert run(["sh", "-c", "(sleep 0.5; echo late) & echo said"]).stdout == b"said\nlate\n"


def test_the_command_of_a_program_that_was_killed_is_ended(run: Callable[..., Any], here: Here, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; kill -KILL {{}}; sleep 60"
    run(["true"])
    with pytest.raises(VirtrootError, match="the container that ran sh ended"):
        run(["sh", "-c", script.format(here.children[0].pid)])
    exe = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/exe")
    end = time.monotonic() + 10
    while exe.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not exe.exists()


def test_input_that_is_cut_short_is_never_worked_on(tmp_path: Path) -> None:
    """Whoever sends it was killed: half of a file is not published."""
    asked = json.dumps({"argv": ["sh", "-c", f"cat > {tmp_path}/file"], "env": {}, "stdin": 10}).encode() + b"\n"
    argv, pipe = [sys.executable, "-I", commands.__file__], subprocess.PIPE
    for given, written in ((b"123456789", False), (b"1234567890", False), (b"1234567890", True)):
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as child:
            assert child.stdin is not None
            child.stdin.write(asked + given)
            child.stdin.flush()
            if written:
                assert child.stdout is not None
                assert child.stdout.readline() == commands.GREETING
                assert child.stdout.readline()
        assert (tmp_path / "file").exists() == written


def test_a_request_that_was_given_up_does_not_run_later(run: Callable[..., Any], here: Here, tmp_path: Path) -> None:
    run(["true"])
    here.children[0].send_signal(signal.SIGSTOP)
    threading.Timer(1, here.children[0].send_signal, [signal.SIGCONT]).start()
    with pytest.raises(VirtrootError, match="did not end within"):
        run(["touch", f"{tmp_path}/file"], None, 0.3)
    here.children[0].wait(10)
    assert not (tmp_path / "file").exists()


def test_a_network_that_gives_up_is_no_command_that_takes_too_long(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["true"])
    gone = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    monkeypatch.setattr(Runner, "_line", Mock(side_effect=gone))
    with pytest.raises(VirtrootError, match=r"the container that ran true ended: .*Connection timed out"):
        run(["true"])


def test_a_lock_that_a_ctrl_c_left_taken_does_not_stop_the_end(here: Here) -> None:
    made = Runner(cast("Container", here), sys.executable)
    made.run(["true"])
    made._lock.acquire()
    made.close()
    assert here.children[0].poll() is not None


def test_a_runner_whose_program_ended_is_forgotten(here: Here) -> None:
    runner.of(cast("Container", here), sys.executable).run(["true"])
    here.children[0].kill()
    here.children[0].wait()
    time.sleep(0.1)
    other = Here()
    runner.of(cast("Container", other), sys.executable)
    assert here.id not in runner._runners
    assert runner._runners.pop(other.id)


def test_a_second_thread_and_much_input_have_an_exec_of_their_own(run: Callable[..., Any]) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(run(["sleep", "1"])))
    thread.start()
    time.sleep(0.3)
    assert run(["true"]) is None
    thread.join()
    assert found != [None]
    assert run(["cat"], bytes((4 << 20) + 1)) is None


@pytest.mark.parametrize("python", ["echo", "/nowhere/python"])
def test_where_no_python_stands_each_command_has_an_exec_of_its_own(here: Here, python: str) -> None:
    target = InContainer(cast("Container", here), python)
    for _ in range(2):
        assert cast("Any", target.run(["true"])) == "by an exec of its own"
    assert here.ran == [["true"]] * 2
    assert len(here.children) <= 1
    runner.of(target.container, python).close()


def test_what_has_bounds_or_is_streamed_has_an_exec_of_its_own(here: Here) -> None:
    target = InContainer(cast("Container", here), sys.executable)
    for bounds in ({"limit": 10}, {"stdin": iter([b"x"])}):
        assert cast("Any", target.run(["true"], **bounds)) == "by an exec of its own"
    assert target.run(["echo", "x"]).text == "x"
    with pytest.raises(VirtrootError, match="false exited with 1"):
        target.run(["false"])
    assert target.run(["false"], check=False).returncode == 1
    runner.of(target.container, sys.executable).close()
