"""The only door to subprocess: argv lists, never a shell string made from data."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipelines.errors import VirtrootError


@dataclass(frozen=True)
class Completed:
    """A finished command: its argv, exit status and whole output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the closing newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """The last lines of standard error (or output, where that is empty), for an error's detail."""
        return (self.stderr or self.stdout).decode(errors="replace").strip()[-4000:]


def failed(completed: Completed) -> VirtrootError:
    """Make the error for a command that exited with a status it should not have."""
    complaint = completed.complaint.splitlines()
    reason = complaint[-1] if complaint else "it printed nothing"
    return VirtrootError(
        f"{completed.argv[0]} exited with {completed.returncode}: {reason}",
        f"run it by hand: {shlex.join(completed.argv)}",
        "\n".join(complaint[-20:-1]),
    )


def found(program: str) -> bool:
    """Say whether ``program`` is on PATH."""
    return shutil.which(program) is not None


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Completed:
    """Run ``argv`` to its end with output captured; ``env`` is added to the environment; ``timeout`` is in seconds.

    Raises `VirtrootError` when the program is missing, overruns ``timeout``, or (with ``check``) exits non-zero.
    """
    source: IO[bytes] | int | None = None if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
    try:
        done = subprocess.run(
            list(argv),
            stdin=source,
            input=stdin if isinstance(stdin, bytes) else None,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise VirtrootError(f"{argv[0]} is not installed", "run ./inv doctor to see what is missing") from error
    except subprocess.TimeoutExpired as error:
        raise VirtrootError(
            f"{argv[0]} did not end within {timeout} s", f"run it by hand: {shlex.join(argv)}"
        ) from error
    completed = Completed(tuple(argv), done.returncode, done.stdout, done.stderr)
    if check and completed.returncode:
        raise failed(completed)
    return completed


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
                    continue  # the child has the same terminal and got the same signal: its answer counts
    except FileNotFoundError as error:
        raise VirtrootError(f"{argv[0]} is not installed", "run ./inv doctor to see what is missing") from error


def pass_on(argv: Sequence[str], line: Callable[[str], object], *, env: Mapping[str, str] | None = None) -> int:
    """Run ``argv`` without a terminal, hand each line of its output and errors to ``line``, return its exit status."""
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
def holding(argv: Sequence[str]) -> Iterator[str]:
    """Run ``argv`` until the block ends, which ends its input; yield the first line it prints."""
    with subprocess.Popen(list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        if child.stdout is None or child.stdin is None:
            raise AssertionError("both are pipes")
        yield child.stdout.readline().decode(errors="replace").rstrip("\n")
        child.stdin.close()


def start_daemon(argv: Sequence[str], *, log: Path, pidfile: Path) -> int:
    """Start ``argv`` in a session of its own, output to ``log``, its process id written to ``pidfile``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    pidfile.write_text(f"{daemon.pid}\n")
    return daemon.pid


def stop_daemon(name: str, pidfile: Path, timeout: float = 60) -> bool:
    """End the daemon that `start_daemon` noted in ``pidfile``, if it still is ``name``; say whether one was ended."""
    if not pidfile.exists():
        return False
    pid = int(pidfile.read_text())
    pidfile.unlink()
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != name:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.1)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return True
