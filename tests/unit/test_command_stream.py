"""A command in a guest: what it reads, what it has from virtroot, what it prints; this machine plays the guest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import command_stream, standard_input
from pipelines.guest.agent import LARGEST_INPUT, Agent, Piece, Status
from tests.support.virsh import hypervisor


class LocalAgent(Agent):
    """Runs here what an agent runs in its guest, with the environment of a unit of systemd's."""

    # The agent itself is immutable.
    running: dict[int, subprocess.Popen[bytes]] = {}  # noqa: RUF012 - process ids are this machine's

    def start_command(self, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        assert len(stdin) <= LARGEST_INPUT
        pipe = subprocess.PIPE
        env = {"PATH": os.environ["PATH"], "INVOCATION_ID": "1", "KEPT": "1"}
        child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd="/", umask=0o027)
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(stdin)
        self.running[child.pid] = child
        return child.pid

    def poll(self, pid: int) -> Iterator[Status]:
        child = self.running[pid]
        while child.poll() is None:
            yield Status(exited=False)
            time.sleep(0.02)
        assert child.stdout is not None
        assert child.stderr is not None
        said = {"exited": True, "exitcode": child.returncode}
        status = Status.model_validate(said)
        status.out_data, status.err_data = child.stdout.read(), child.stderr.read()
        child.stdout.close()
        child.stderr.close()
        yield status

    def open(self, path: str, offset: int = 0, *, mode: str = "r") -> int:
        handle = os.open(path, os.O_RDONLY)
        os.lseek(handle, offset, os.SEEK_SET)
        return handle

    def read(self, handle: int, size: int) -> Piece:
        content = os.read(handle, size)
        piece = Piece(eof=not content)
        piece.content = content
        return piece

    def write(self, path: str, content: bytes) -> None:
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            raise VirtrootError(f"guest-file-open: {error}", "") from error


Run = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a command with a file or descriptor as its input; return status, output and errors."""
    machine = hypervisor({"domstate": "running\n"})

    def go(*argv: str, stdin: int | None = None) -> tuple[int, bytes, bytes]:
        agent = LocalAgent(machine, "uuid", "web")
        outputs = (bytearray(), bytearray())
        status = command_stream.run(
            agent, argv, outputs[0].extend, outputs[1].extend, stdin=stdin, memory=str(tmp_path)
        )
        if stdin is not None:
            os.close(stdin)
        return status, bytes(outputs[0]), bytes(outputs[1])

    yield go
    for thread in threading.enumerate():
        if thread.name == "standard input":
            thread.join()
    for child in LocalAgent.running.values():
        with child:
            pass
    LocalAgent.running.clear()


def given(tmp_path: Path, content: bytes) -> int:
    (tmp_path / "given").write_bytes(content)
    return os.open(tmp_path / "given", os.O_RDONLY)


@pytest.mark.parametrize("size", [0, 1, LARGEST_INPUT, LARGEST_INPUT + 1, 1 << 20, (50 << 20) + 7])
def test_a_command_reads_all_of_its_input(run: Run, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    status, said, _ = run("sha256sum", stdin=given(tmp_path, content))
    assert (status, said.split()[0].decode()) == (0, hashlib.sha256(content).hexdigest())


def test_input_that_comes_bit_by_bit_is_passed_on_as_it_comes(run: Run) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first\n")
    assert run("sh", "-c", 'read -r line; echo "$line"', stdin=reading)[1] == b"first\n"
    os.close(writing)


def test_little_of_what_a_slow_command_has_not_read_is_in_the_guest(run: Run, tmp_path: Path) -> None:
    count = f"ls {tmp_path}/*/in.* | grep -vc new"
    status, said, _ = run(
        "sh", "-c", f"sleep 1; {count}; head -c 8000000 > /dev/null; cat | wc -c", stdin=given(tmp_path, bytes(9 << 20))
    )
    assert (status, int(said.split()[0]) <= 2, int(said.split()[1])) == (0, True, (9 << 20) - 8000000)


@pytest.mark.parametrize("script", ["true", "exec <&-; sleep 1", "head -c 1 > /dev/null", "sleep 1 & exit 0"])
def test_a_command_that_does_not_read_its_input_ends(run: Run, tmp_path: Path, script: str) -> None:
    begin = time.monotonic()
    assert run("sh", "-c", script, stdin=given(tmp_path, bytes(5 << 20)))[0] == 0
    assert time.monotonic() - begin < 60


def test_the_status_is_the_commands_with_input_or_without(run: Run, tmp_path: Path) -> None:
    assert run("sh", "-c", "exit 7")[0] == 7
    assert run("sh", "-c", "cat; exit 7", stdin=given(tmp_path, b"x")) == (7, b"x", b"")
    assert run("sh", "-c", "cat; kill -TERM $$", stdin=given(tmp_path, b"x"))[0] == 143
    assert run("no such program", stdin=given(tmp_path, b"x"))[0] == 127


def test_input_that_cannot_be_read_ends_the_command(run: Run, tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(VirtrootError, match="cannot read standard input: Is a directory"):
        run("sh", "-c", f"touch {tmp_path}/begun; cat; touch {tmp_path}/ended", stdin=closed)
    assert not (tmp_path / "ended").exists()


def test_a_command_has_what_a_login_has_and_nothing_of_the_agents(run: Run) -> None:
    status, said, _ = run("sh", "-c", 'umask; pwd; echo "$HOME $USER $LOGNAME $PATH"; env; ls /proc/self/fd')
    umask, directory, line, *env = said.decode().splitlines()
    home, user, logname, path = line.split()
    root = next(
        entry.split(":") for entry in Path("/etc/passwd").read_text().splitlines() if entry.split(":")[2] == "0"
    )
    assert (status, umask, directory) == (0, "0022", home)
    assert (home, user, logname) == (root[5], root[0], root[0])
    assert {"/usr/local/sbin", "/usr/bin", "/sbin"} <= set(path.split(":"))
    assert "KEPT=1" in env
    assert not [each for each in env if each.startswith(("INVOCATION_ID", "OLDPWD", "line", "uid"))]
    # Its own standard ones, and the one that ls reads the directory by.
    assert env[-4:] == ["0", "1", "2", "3"]


def test_what_lies_between_is_the_users_alone(run: Run, tmp_path: Path) -> None:
    said = run(
        "sh",
        "-c",
        f"cat > {tmp_path}/made; stat --format=%a {tmp_path}/* {tmp_path}/*/out",
        stdin=given(tmp_path, b"x"),
    )[1]
    assert said.split() == [b"644", b"644", b"700", b"600"]


def test_a_terminal_and_nothing_at_all_are_not_read(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    for path, read in ((os.ttyname(terminal), False), (os.devnull, False), ("/dev/zero", True)):
        with Path(path).open() as stream:
            assert (standard_input.find_descriptor(stream) is not None) == read
    assert standard_input.find_descriptor(None) is None
    os.close(controller)
    os.close(terminal)


def test_a_directory_is_refused_before_the_command_begins(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)

    class Stream:
        def fileno(self) -> int:
            return descriptor

    with pytest.raises(VirtrootError, match="standard input is a directory"):
        standard_input.find_descriptor(cast(Any, Stream()))
