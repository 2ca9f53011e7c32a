"""Runs programs. This is the only module that uses subprocess; it takes argv lists, never shell strings."""

from __future__ import annotations

import io
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeGuard

from pipelines import log
from pipelines.errors import VirtrootError
from pipelines.host.feed import Feeder, Source
from pipelines.text import split_lines, trim


@dataclass(frozen=True)
class Completed:
    """A finished command: its argv, exit status and complete output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without trailing newlines."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """The end of standard error or, if that is empty, of standard output, for an error's detail."""
        return trim((self.stderr or self.stdout).decode(errors="replace"))[-4000:]


def make_failure(completed: Completed) -> VirtrootError:
    """Make the error for a command that failed."""
    complaint = split_lines(completed.complaint)
    reason = complaint[-1] if complaint else "no output"
    return VirtrootError(
        f"{completed.argv[0]} exited with {completed.returncode}: {reason}",
        f"run it by hand: {shlex.join(completed.argv)}",
        "\n".join(complaint[-20:-1]),
    )


def is_installed(program: str) -> bool:
    """Return whether ``program`` is on PATH."""
    return shutil.which(program) is not None


class Overran(VirtrootError):
    """A command exceeded its time limit, and was killed."""


def make_overrun(argv: Sequence[str], timeout: float | None) -> Overran:
    """Make the error for a command that exceeded its time limit of ``timeout`` seconds."""
    return Overran(f"{argv[0]} did not end within {timeout} s", f"run it by hand: {shlex.join(argv)}")


def make_limit_error(argv: Sequence[str], limit: int) -> VirtrootError:
    """Make the error for a command that exceeded its output limit of ``limit`` bytes."""
    return VirtrootError(
        f"{argv[0]} printed more than {limit} bytes and was killed", f"run it by hand: {shlex.join(argv)}"
    )


def run(
    argv: Sequence[str],
    *,
    stdin: Source | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float | None = None,
    limit: int | None = None,
    new_session: bool = False,
) -> Completed:
    """Run ``argv`` and capture its output; ``env`` is added to the environment.

    ``timeout`` is in seconds, ``limit`` in bytes of each output. With ``new_session`` the program has no terminal: it
    cannot push characters into the caller's terminal, and Ctrl-C reaches it only through this process.

    Raises VirtrootError if the program cannot be started, ``stdin`` cannot be read, ``timeout`` or ``limit`` is
    exceeded (which kills the program) or, with ``check``, it exits non-zero.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _start(argv, stdin, env, new_session=new_session) as (child, feeder):
        try:
            stdout, stderr = _read_outputs(child, argv, deadline, limit)
            child.wait(_get_time_left(deadline))
        except subprocess.TimeoutExpired as error:
            raise make_overrun(argv, timeout) from error
    if feeder:
        feeder.check()
    completed = Completed(tuple(argv), child.returncode, stdout, stderr)
    if check and completed.returncode:
        raise make_failure(completed)
    return completed


@contextmanager
def _start(
    argv: Sequence[str], stdin: Source | None, env: Mapping[str, str] | None, *, new_session: bool
) -> Iterator[tuple[subprocess.Popen[bytes], Feeder | None]]:
    """Start ``argv`` with pipes for its output; an exception in the block kills it."""
    log.detail(argv)
    source: IO[bytes] | int = subprocess.DEVNULL
    writer = -1
    if _is_plain_file(stdin):
        source = stdin
    elif stdin is not None:
        source, writer = os.pipe()
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=new_session,
        )
    except OSError as error:
        if writer >= 0:
            os.close(writer)
        raise _make_start_error(argv, error) from error
    finally:
        if writer >= 0 and isinstance(source, int):
            os.close(source)
    with child:
        try:
            feeder = None
            if writer >= 0 and stdin is not None:
                feeder = Feeder(
                    stdin,
                    lambda data: _write(writer, data),
                    close=lambda: os.close(writer),
                    abort=lambda: _kill(child, whole_session=new_session),
                )
            yield child, feeder
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not new_session:
                # The terminal sent it the same signal. Give it time to clean up.
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.25)
            _kill(child, whole_session=new_session)
            raise


def _is_plain_file(stdin: Source | None) -> TypeGuard[IO[bytes]]:
    """Return whether a command can read ``stdin`` directly: the descriptor of other files has other bytes, or none."""
    return isinstance(getattr(stdin, "raw", stdin), io.FileIO)


def _read_outputs(
    child: subprocess.Popen[bytes], argv: Sequence[str], deadline: float | None, limit: int | None
) -> tuple[bytes, bytes]:
    """Read both outputs to their ends. Raises subprocess.TimeoutExpired at ``deadline``."""
    kept = (bytearray(), bytearray())
    with selectors.DefaultSelector() as selector:
        for pipe, output in zip((child.stdout, child.stderr), kept, strict=True):
            if pipe:
                selector.register(pipe, selectors.EVENT_READ, output)
        while selector.get_map():
            for key, _ in selector.select(_get_time_left(deadline)):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                if limit is not None and len(key.data) > limit:
                    raise make_limit_error(argv, limit)
    return bytes(kept[0]), bytes(kept[1])


def _get_time_left(deadline: float | None) -> float | None:
    """Return the seconds until ``deadline``. Raises subprocess.TimeoutExpired if it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise subprocess.TimeoutExpired("", 0)
    return left


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _kill(child: subprocess.Popen[bytes], *, whole_session: bool) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(-child.pid if whole_session else child.pid, signal.SIGKILL)


def _make_start_error(argv: Sequence[str], error: OSError) -> VirtrootError:
    """Make the error for a program that cannot be started; a directory or its interpreter may be missing instead."""
    if isinstance(error, FileNotFoundError) and not is_installed(argv[0]):
        return VirtrootError(f"{argv[0]} is not installed", "run ./inv doctor for what is missing")
    if isinstance(error, FileNotFoundError) and error.filename != argv[0]:
        return VirtrootError(f"cannot start {argv[0]} in {error.filename}: no such directory", "create the directory")
    if isinstance(error, FileNotFoundError):
        return VirtrootError(f"cannot start {argv[0]}: interpreter not found", "check the first line of the file")
    return VirtrootError(f"cannot start {argv[0]}: {error.strerror}", f"run it by hand: {shlex.join(argv)[:400]}")


def attach(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout_to_stderr: bool = False,
) -> int:
    """Run ``argv`` on this terminal and return its exit status; ``env`` is added to the environment."""
    try:
        with subprocess.Popen(
            list(argv), env={**os.environ, **(env or {})}, cwd=cwd, stdout=2 if stdout_to_stderr else None
        ) as child:
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:
                    continue  # the terminal sent the child the same signal; wait for its exit status
    except OSError as error:
        raise _make_start_error(argv, error) from error


def run_by_line(argv: Sequence[str], line: Callable[[str], object], *, env: Mapping[str, str] | None = None) -> int:
    """Run ``argv`` without a terminal, call ``line`` with each line of its output, and return its exit status."""
    with subprocess.Popen(
        list(argv),
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for each in child.stdout or ():
            line(each)
        return child.wait()


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer Ctrl-C until the end of the block, for changes that must not be interrupted halfway."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def hold(argv: Sequence[str]) -> Iterator[str]:
    """Run ``argv`` during the block, yield its first line of output, and close its input at the end."""
    with subprocess.Popen(list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        if child.stdout is None or child.stdin is None:
            raise AssertionError("both are pipes")
        yield child.stdout.readline().decode(errors="replace").rstrip("\n")
        child.stdin.close()


@contextmanager
def open_output(argv: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run ``argv`` and yield its output as a stream; leaving the block early kills the program.

    Raises VirtrootError if it cannot be started or, if its output was read to the end, it exits non-zero.
    """
    with tempfile.TemporaryFile() as complaint:
        try:
            child = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint)
        except OSError as error:
            raise _make_start_error(argv, error) from error
        with child:
            if child.stdout is None:
                raise AssertionError("it is a pipe")
            try:
                yield child.stdout
                unread = child.stdout.read(1)
            except BaseException:
                child.kill()
                raise
            if unread:
                child.kill()
                return
            if child.wait():
                complaint.seek(0)
                raise make_failure(Completed(tuple(argv), child.returncode, b"", complaint.read(1 << 16)))


def start_daemon(argv: Sequence[str], *, log: Path, pidfile: Path) -> int:
    """Start ``argv`` in a new session, with its output in ``log`` and its process id in ``pidfile``; return the id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    pidfile.write_text(f"{daemon.pid}\n")
    return daemon.pid


def stop_daemon(name: str, pidfile: Path, timeout: float = 60) -> bool:
    """End the daemon in ``pidfile`` if that process still is ``name``; return whether there was one.

    ``timeout`` is the time in seconds to wait for its end.
    """
    if not pidfile.exists():
        return False
    pid = int(pidfile.read_text())
    pidfile.unlink()
    try:
        if Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n") != os.fsencode(name):
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.1)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return True
