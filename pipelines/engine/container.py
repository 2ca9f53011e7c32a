"""A container on the engine: commands run in it, and it goes."""

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

#: The variable that a command which may have to be ended and all that it starts are known by.
_MARK = "VIRTROOT_COMMAND"

#: Seconds that a command may take to end after its input has.
_PATIENCE = 10


def new_mark() -> dict[str, str]:
    """Return variables that a command and all that it starts are known by, see `Container.end`."""
    return {_MARK: uuid.uuid4().hex}


def went_away(argv: Sequence[str], error: Exception) -> VirtrootError:
    """Return the error for a container, or the program in it that runs commands, that ended while it ran ``argv``."""
    hint = "see whether memory ran out (dmesg) and what the engine's log says, then run the task again"
    return VirtrootError(f"the container that ran {argv[0]} went away: {error}", hint, where=Phase.ENGINE)


class NameTaken(VirtrootError):
    """A container of that name is there already."""


class NoSuchDevice(VirtrootError):
    """The engine's machine does not have a device that a container was to get, or does not give it."""


@dataclass(frozen=True)
class Container:
    """A running container, as far as virtroot needs one: commands run in it."""

    id: str
    # docker-py's APIClient; that library is imported in engine.py alone.
    _api: Any = field(repr=False)
    # The connection to the first process' input, which ends with this process.
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
        """Run ``argv`` in the container; output goes to the sinks where given, else into the result.

        ``timeout`` is in seconds; ``limit`` is how many bytes of each output go into the result. Overrunning one, or
        a ``stdin`` that cannot be read, ends the command and all that it started.

        Raises `VirtrootError` then, when the engine goes away and, with ``check``, when the command exits non-zero.
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
        mark = {} if endless else new_mark()
        api = self._api
        try:
            environment = {**(env or {}), **mark}
            exec_id = api.exec_create(self.id, list(argv), stdin=stdin is not None, environment=environment)["Id"]
            with exec_stream.connection(api.exec_start(exec_id, socket=True)) as connection:
                if not exec_stream.exchange(connection, stdin, sinks, timeout):
                    raise make_overrun(argv, timeout)
            status = api.exec_inspect(exec_id)["ExitCode"]
        except VirtrootError:
            self.end(mark)
            raise
        except (requests.RequestException, ConnectionError) as error:
            raise went_away(argv, error) from error
        completed = Completed(tuple(argv), -1 if status is None else status, bytes(kept[0]), bytes(kept[1]))
        if check and completed.returncode:
            raise make_failure(completed)
        return completed

    def end(self, mark: Mapping[str, str]) -> None:
        """Kill what carries ``mark`` in its environment: the engine itself has no way to end a command."""
        script = 'for p in /proc/[0-9]*; do ! grep -qzx "$1" "$p/environ" || kill -KILL "${p#/proc/}"; done'
        for name, value in mark.items():
            self.run(["sh", "-c", script, "end", f"{name}={value}"], check=False)

    @contextmanager
    def terminal(self, argv: Sequence[str]) -> Iterator[tuple[Connection, Callable[[int, int], None]]]:
        """Run ``argv`` on a terminal in the container; yield its connection and a call that resizes it."""
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True, tty=True)["Id"]
        with exec_stream.connection(api.exec_start(exec_id, tty=True, socket=True)) as connection:
            yield connection, lambda rows, columns: api.exec_resize(exec_id, height=rows, width=columns)

    @contextmanager
    def holding(self, argv: Sequence[str]) -> Iterator[str]:
        """Run ``argv`` until the block ends, which ends its input; yield the first line it prints.

        Waits until it exits, so that a lock that it holds is free afterwards, but not for longer than `_PATIENCE`.
        """
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True)["Id"]
        with exec_stream.connection(api.exec_start(exec_id, socket=True)) as connection:
            frames = exec_stream.frames(connection)
            said = next((chunk for _, chunk in frames), b"")
            try:
                yield said.decode(errors="replace").partition("\n")[0]
            finally:
                exec_stream.end(connection, frames, _PATIENCE)

    @contextmanager
    def standing(self, argv: Sequence[str]) -> Iterator[Connection]:
        """Run ``argv`` until the block ends, which ends its input; yield the connection to it.

        Raises requests.RequestException where the engine does not start it.
        """
        exec_id = self._api.exec_create(self.id, list(argv), stdin=True)["Id"]
        with exec_stream.connection(self._api.exec_start(exec_id, socket=True)) as connection:
            yield connection

    def stop(self, timeout: int) -> None:
        """Ask the container's first process to end, and kill it after ``timeout`` seconds; one that is gone is fine."""
        try:
            self._api.stop(self.id, timeout=timeout)
        except requests.RequestException as error:
            if error.response is None or error.response.status_code != HTTPStatus.NOT_FOUND:
                raise VirtrootError(f"the engine cannot stop a container: {error}", "see the engine's log") from error

    def remove(self) -> None:
        """Kill and remove the container; one that is gone already is fine."""
        try:
            with suppress(requests.HTTPError):
                self._api.remove_container(self.id, force=True, v=True)
        finally:
            if self._tie is not None:
                exec_stream.close(self._tie)
