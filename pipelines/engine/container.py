"""A running container: run commands in it, stop it, remove it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import requests

from pipelines.engine import exec_stream
from pipelines.engine.exec_stream import Connection, Sink
from pipelines.errors import Phase, VirtrootError
from pipelines.host.feed import Source
from pipelines.host.process import Completed, make_failure, make_limit_error, make_overrun

#: An environment variable that marks a command and its child processes, to kill them.
_MARK = "VIRTROOT_COMMAND"

#: Seconds that a command may take to exit after the end of its input.
_EXIT_TIMEOUT = 10


def make_mark() -> dict[str, str]:
    """Return an environment that marks a command and its child processes, see `Container.end`."""
    return {_MARK: uuid.uuid4().hex}


def make_lost_error(argv: Sequence[str], error: Exception) -> VirtrootError:
    """Make the error for a container, or its program that runs commands, that ended while ``argv`` ran."""
    hint = "check dmesg for a lack of memory, and the engine's log; then run the task again"
    return VirtrootError(f"the container that ran {argv[0]} ended: {error}", hint, where=Phase.ENGINE)


class NameTaken(VirtrootError):
    """A container with that name exists already."""


class NoSuchDevice(VirtrootError):
    """The engine's machine does not have a requested device, or denies access to it."""


@dataclass(frozen=True)
class Container:
    """A running container."""

    id: str
    # docker-py's APIClient. Only engine.py imports that library, so there is no type.
    _api: Any = field(repr=False)
    # The connection to the input of the first process; the kernel closes it when this process ends.
    _tie: Any = field(default=None, repr=False, compare=False)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Source | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Completed:
        """Run ``argv`` in the container; output goes to the sinks if given, otherwise into the result.

        ``timeout`` is in seconds; ``limit`` is the maximum size in bytes of each output in the result. If one of them
        is exceeded, or ``stdin`` cannot be read, the command and its child processes are killed.

        Raises VirtrootError in these cases, if the engine is lost and, with ``check``, if the command exits non-zero.
        """
        kept = (bytearray(), bytearray())

        def keep(output: bytearray) -> Sink:
            def sink(chunk: bytes) -> None:
                output.extend(chunk)
                if limit is not None and len(output) > limit:
                    raise make_limit_error(argv, limit)

            return sink

        sinks = {1: stdout or keep(kept[0]), 2: stderr or keep(kept[1])}
        endless = timeout is None and limit is None and (stdin is None or isinstance(stdin, bytes))
        mark = {} if endless else make_mark()
        api = self._api
        try:
            environment = {**(env or {}), **mark}
            exec_id = api.exec_create(self.id, list(argv), stdin=stdin is not None, environment=environment)["Id"]
            with exec_stream.open_connection(api.exec_start(exec_id, socket=True)) as connection:
                if not exec_stream.exchange(connection, stdin, sinks, timeout):
                    raise make_overrun(argv, timeout)
            status = api.exec_inspect(exec_id)["ExitCode"]
        except VirtrootError:
            self.end(mark)
            raise
        except (requests.RequestException, ConnectionError) as error:
            raise make_lost_error(argv, error) from error
        completed = Completed(tuple(argv), -1 if status is None else status, bytes(kept[0]), bytes(kept[1]))
        if check and completed.returncode:
            raise make_failure(completed)
        return completed

    def end(self, mark: Mapping[str, str]) -> None:
        """Kill the processes with ``mark`` in their environment; the engine has no call to end a command."""
        script = 'for p in /proc/[0-9]*; do ! grep -qzx "$1" "$p/environ" || kill -KILL "${p#/proc/}"; done'
        for name, value in mark.items():
            self.run(["sh", "-c", script, "end", f"{name}={value}"], check=False)

    @contextmanager
    def terminal(self, argv: Sequence[str]) -> Iterator[tuple[Connection, Callable[[int, int], None]]]:
        """Run ``argv`` on a terminal in the container; yield its connection, and a function that resizes it."""
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True, tty=True)["Id"]
        with exec_stream.open_connection(api.exec_start(exec_id, tty=True, socket=True)) as connection:
            yield connection, lambda rows, columns: api.exec_resize(exec_id, height=rows, width=columns)

    @contextmanager
    def hold(self, argv: Sequence[str]) -> Iterator[str]:
        """Run ``argv`` during the block, yield its first line of output, and close its input at the end.

        Then wait until it exits, at most `_EXIT_TIMEOUT` seconds, so that a lock that it holds is free.
        """
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True)["Id"]
        with exec_stream.open_connection(api.exec_start(exec_id, socket=True)) as connection:
            frames = exec_stream.read_frames(connection)
            said = next((chunk for _, chunk in frames), b"")
            try:
                yield said.decode(errors="replace").partition("\n")[0]
            finally:
                exec_stream.end(connection, frames, _EXIT_TIMEOUT)

    @contextmanager
    def run_attached(self, argv: Sequence[str]) -> Iterator[Connection]:
        """Run ``argv`` during the block, yield the connection to it, and close that at the end.

        Raises requests.RequestException if the engine cannot start it.
        """
        exec_id = self._api.exec_create(self.id, list(argv), stdin=True)["Id"]
        with exec_stream.open_connection(self._api.exec_start(exec_id, socket=True)) as connection:
            yield connection

    def stop(self, timeout: int) -> None:
        """Stop the container, and kill it after ``timeout`` seconds; ignore a missing one."""
        try:
            self._api.stop(self.id, timeout=timeout)
        except requests.RequestException as error:
            if error.response is None or error.response.status_code != HTTPStatus.NOT_FOUND:
                raise VirtrootError(f"cannot stop the container: {error}", "check the engine's log") from error

    def remove(self) -> None:
        """Kill and remove the container; ignore a missing one."""
        try:
            with suppress(requests.HTTPError):
                self._api.remove_container(self.id, force=True, v=True)
        finally:
            if self._tie is not None:
                exec_stream.close(self._tie)
