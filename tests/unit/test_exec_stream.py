"""The connection to a command in a container, against a socket pair that plays the engine."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from pipelines.engine import exec_stream
from pipelines.engine.container import Container
from pipelines.engine.exec_stream import Connection
from pipelines.errors import VirtrootError
from tests.support.bad_disk import BadDisk


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def received(engine: socket.socket) -> bytes:
    """Read to the end that a half-close makes; one that never comes is a failure."""
    engine.settimeout(5)
    got = b""
    while chunk := engine.recv(1 << 16):
        got += chunk
    return got


def test_input_ends_with_a_half_close_and_output_goes_to_its_sink(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    out, err = bytearray(), bytearray()

    def engine() -> None:
        data = received(theirs)
        theirs.sendall(frame(1, data.upper()) + frame(2, b"complaint"))
        theirs.close()

    thread = threading.Thread(target=engine)
    thread.start()
    assert exec_stream.exchange(Connection(ours), b"input", {1: out.extend, 2: err.extend})
    thread.join()
    assert (bytes(out), bytes(err)) == (b"INPUT", b"complaint")


def test_input_that_cannot_be_read_ends_the_exchange(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with pytest.raises(VirtrootError, match="cannot read /srv/rootfs: Input/output error"):
        exec_stream.exchange(Connection(ours), BadDisk(), {})  # type: ignore[arg-type]
    assert received(theirs) == b"begin"


def test_a_silent_command_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    begin = time.monotonic()
    assert not exec_stream.exchange(Connection(pair[0]), None, {}, timeout=0.3)
    assert time.monotonic() - begin < 5


class FakeApi:
    """docker-py's client for one command, whose other end is ``engine``."""

    def __init__(self, engine: Callable[[socket.socket], None], status: int | None = 0) -> None:
        self._engine, self._status = engine, status
        self.asked: list[tuple[list[str], dict[str, str]]] = []

    def exec_create(
        self, _: str, argv: list[str], *, stdin: bool, environment: dict[str, str] | None = None
    ) -> dict[str, str]:
        self.asked.append((argv, environment or {}))
        return {"Id": "1"}

    def exec_start(self, *_: Any, **__: Any) -> Any:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs:
                if len(self.asked) == 1:
                    self._engine(theirs)

        threading.Thread(target=serve, daemon=True).start()
        return SimpleNamespace(_sock=ours, close=lambda: None)

    def exec_inspect(self, _: str) -> dict[str, int | None]:
        return {"ExitCode": self._status}


def endless(engine: socket.socket) -> None:
    try:
        while True:
            engine.sendall(frame(2, b"y" * 100))
    except OSError:
        return


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"limit": 1000}, "cat printed more than 1000 bytes"),
        ({"timeout": 0.3}, r"cat did not end within 0\.3 s"),
        ({"stdin": BadDisk()}, "cannot read /srv/rootfs"),
    ],
)
def test_a_command_in_a_container_that_is_cut_off_is_killed_there(bounds: dict[str, Any], says: str) -> None:
    api = FakeApi(endless)
    with pytest.raises(VirtrootError, match=says):
        Container("1", api).run(["cat"], **bounds)
    (_, environment), (end, others) = api.asked
    ((name, value),) = environment.items()
    assert end[-1] == f"{name}={value}"
    assert name not in others


def test_what_a_command_holds_is_free_when_the_block_that_it_was_held_for_ends() -> None:
    """A lock is one that the command has until its input ends: the next task must not find it taken."""
    free: list[bool] = []

    def engine(connection: socket.socket) -> None:
        connection.sendall(frame(1, b"held\n"))
        assert received(connection) == b""
        time.sleep(0.2)
        free.append(True)

    with Container("1", FakeApi(engine)).hold(["lock"]) as said:
        assert (said, free) == ("held", [])
    assert free == [True]


def test_a_command_without_bounds_has_no_mark() -> None:
    api = FakeApi(lambda engine: engine.sendall(frame(1, b"done")))
    assert Container("1", api).run(["cat"], stdin=b"", env={"A": "b"}).text == "done"
    assert api.asked == [(["cat"], {"A": "b"})]


def test_a_sink_takes_as_much_as_it_wants() -> None:
    lines: list[bytes] = []
    done = Container("1", FakeApi(lambda engine: engine.sendall(frame(1, b"x" * 5000)))).run(
        ["cat"], stdout=lines.append, limit=10
    )
    assert b"".join(lines) == b"x" * 5000
    assert done.stdout == b""


def test_an_engine_that_goes_away_is_said_so() -> None:
    class Gone(FakeApi):
        def exec_inspect(self, _: str) -> dict[str, int | None]:
            raise ConnectionResetError("reset")

    with pytest.raises(VirtrootError, match="the container that ran cat ended"):
        Container("1", Gone(lambda _: None)).run(["cat"])


@pytest.mark.parametrize("early", [0, 3, 8, 11, 22])
def test_output_that_comes_with_the_engines_answer_is_not_lost(tmp_path: Path, early: int) -> None:
    """A command on a busy machine has printed before docker-py reads the answer to the request that started it."""
    output = frame(1, b"all") + frame(1, b"of it")
    answer = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()

        def engine() -> None:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while not request.endswith(b"}"):
                    request += connection.recv(1 << 16)
                connection.sendall(answer + output[:early])
                time.sleep(0.2)
                connection.sendall(output[early:])

        threading.Thread(target=engine, daemon=True).start()
        api = docker.APIClient(base_url=f"unix://{tmp_path}/engine.sock", version="1.41")
        with exec_stream.open_connection(api.exec_start("1", socket=True)) as connection:
            assert len(connection.early) == early
            assert list(exec_stream.read_frames(connection)) == [(1, b"all"), (1, b"of it")]
