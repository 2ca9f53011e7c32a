"""Commands on this machine: bounded, fed and ended."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.settings import CHECKOUT
from pipelines.target.target import Local
from tests.support.bad_disk import BadDisk


def test_output_and_status() -> None:
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_more_than_the_limit_ends_the_command(stream: str) -> None:
    begin = time.monotonic()
    with pytest.raises(VirtrootError, match="sh printed more than 1000 bytes and was killed"):
        process.run(["sh", "-c", f"while :; do echo yes{stream}; done"], limit=1000)
    assert time.monotonic() - begin < 10


def test_as_much_as_the_limit_is_fine() -> None:
    assert len(process.run(["head", "-c", "1000", "/dev/zero"], limit=1000).stdout) == 1000


@pytest.mark.parametrize("script", ["exec sleep 60", "while :; do echo busy; done", "exec >&- 2>&-; exec sleep 60"])
@pytest.mark.parametrize("new_session", [False, True])
def test_a_command_that_takes_too_long_is_ended(script: str, new_session: bool) -> None:
    begin = time.monotonic()
    with pytest.raises(VirtrootError, match=r"sh did not end within 0\.5 s"):
        process.run(["sh", "-c", script], timeout=0.5, new_session=new_session)
    assert time.monotonic() - begin < 10


def test_a_session_of_its_own_ends_whole(tmp_path: Path) -> None:
    with pytest.raises(VirtrootError, match="did not end"):
        process.run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], timeout=0.5, new_session=True)
    pid = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        # Whoever adopts it may not have reaped it yet.
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_session_of_its_own_has_no_terminal() -> None:
    ask = ["sh", "-c", "ps -o sid= -p $$"]
    own, shared = (int(process.run(ask, new_session=new).text) for new in (True, False))
    assert shared == os.getsid(0)
    assert own != shared


def test_much_input_and_output_at_once() -> None:
    data = os.urandom(1 << 20) * 8
    assert process.run(["cat"], stdin=data).stdout == data


def test_input_from_files_that_are_files_and_those_that_only_look_so(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"plain")
    with (tmp_path / "plain").open("rb") as file:
        assert process.run(["cat"], stdin=file).stdout == b"plain"
    with gzip.open(tmp_path / "packed", "wb") as packed:
        packed.write(b"x" * 3_000_000)
    with gzip.open(tmp_path / "packed") as packed:
        assert process.run(["cat"], stdin=packed).stdout == b"x" * 3_000_000  # type: ignore[arg-type]
    assert process.run(["cat"], stdin=io.BytesIO(b"memory")).stdout == b"memory"
    assert process.run(["cat"], stdin=b"").stdout == b""


def test_without_input_there_is_none() -> None:
    assert process.run(["cat"]).stdout == b""


def test_a_command_that_does_not_want_its_input_is_no_error() -> None:
    begin = time.monotonic()
    assert process.run(["true"], stdin=b"x" * 10_000_000).returncode == 0
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"), io.BufferedReader(_Slow()) as never:  # noqa: PTH123
        assert process.run(["true"], stdin=never).returncode == 0
    assert time.monotonic() - begin < 5


class _Slow(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        time.sleep(1)
        return 0


def test_input_that_cannot_be_read_ends_the_command() -> None:
    with pytest.raises(VirtrootError, match="cannot read /srv/rootfs: Input/output error"):
        process.run(["sh", "-c", "cat; exec sleep 60"], stdin=BadDisk())  # type: ignore[arg-type]


def test_a_bug_in_the_source_is_not_hidden() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process.run(["cat"], stdin=Broken())  # type: ignore[arg-type]


def test_no_descriptors_are_left() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    process.run(["cat"], stdin=b"x")
    before = count()
    for _ in range(5):
        process.run(["cat"], stdin=b"x" * 100_000)
        with pytest.raises(VirtrootError):
            process.run(["cat"], stdin=BadDisk())  # type: ignore[arg-type]
        with pytest.raises(VirtrootError):
            process.run(["no-such-program"], stdin=b"x")
        with pytest.raises(VirtrootError):
            process.run(["yes"], limit=10)
    time.sleep(0.2)
    assert count() == before


def test_what_is_missing_is_what_is_named(tmp_path: Path) -> None:
    with pytest.raises(VirtrootError, match="no-such-program is not installed"):
        process.run(["no-such-program"])
    with pytest.raises(VirtrootError, match="cannot start true in /no/where: no such directory"):
        process.attach(["true"], cwd=Path("/no/where"))
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    with pytest.raises(VirtrootError, match="Permission denied"):
        process.run([str(script)])
    script.chmod(0o755)
    with pytest.raises(VirtrootError, match="interpreter not found"):
        process.run([str(script)])
    with pytest.raises(VirtrootError, match="Argument list too long"):
        process.run(["true", "x" * (4 << 20)])


def test_a_target_passes_bounds_on() -> None:
    with pytest.raises(VirtrootError, match="printed more than 10 bytes"):
        Local().run(["yes"], limit=10)
    with pytest.raises(VirtrootError, match=r"did not end within 0\.2 s"):
        Local().run(["sleep", "60"], timeout=0.2)


def heed_ctrl_c() -> None:
    """Whoever started the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_what_runs_in_a_session_of_its_own(tmp_path: Path) -> None:
    program = (
        "from pipelines.host import process\n"
        f"process.run(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], new_session=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=env, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c
    ) as task:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert task.poll() is None
            time.sleep(0.05)
        task.send_signal(2)
        task.wait(10)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_what_must_not_be_left_half_done_comes_to_its_end_before_ctrl_c_counts(tmp_path: Path) -> None:
    script = f"trap '' INT; kill -INT {os.getpid()}; sleep 0.6; echo done > {tmp_path / 'ended'}"
    reached = []

    def publish() -> None:
        with process.defer_interrupt():
            process.run(["sh", "-c", script])
            reached.append("the end")

    # Whoever started the tests in the background had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            publish()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["the end"]
    assert (tmp_path / "ended").read_text() == "done\n"


def test_output_is_read_as_it_comes_and_its_end_is_judged() -> None:
    script = "echo one; echo why >&2; exit 3"
    with pytest.raises(VirtrootError, match="exited with 3: why"), process.open_output(["sh", "-c", script]) as output:
        assert output.read() == b"one\n"


def test_a_program_whose_output_is_wanted_no_more_is_ended() -> None:
    with process.open_output(["sh", "-c", "echo $$; exec yes"]) as output:
        pid = int(output.readline())
        assert output.read(2) == b"y\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_cannot_be_read_is_said() -> None:
    with (
        pytest.raises(VirtrootError, match="no-such-program is not installed"),
        process.open_output(["no-such-program"]),
    ):
        pytest.fail("it was read")
