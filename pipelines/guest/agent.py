"""The guest agent: commands in a running guest, with neither network nor ssh.

Protocol: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html. The agent is the guest's, so what it answers is
taken for nothing but data of the expected form.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Base64Bytes, BaseModel, Field, TypeAdapter, ValidationError

from pipelines.errors import VirtrootError
from pipelines.host import addresses
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor

_Answer = TypeVar("_Answer", bound=BaseModel)

_FIRST_POLL, _SLOWEST_POLL = 0.05, 1.0

#: Bytes that one request may bring along: it is an argument of virsh, which as base64 may have 128 KiB.
LARGEST_INPUT = 88 << 10

#: Seconds that one answer may take, and that an agent which is asked again and again may be silent.
_ANSWER, _SILENCE = 20, 90


class Silent(VirtrootError):
    """The agent does not answer."""


class Status(BaseModel):
    """What guest-exec-status says of a command."""

    exited: bool
    exitcode: int | None = None
    signal: int = 0
    out_data: Base64Bytes = Field(default=b"", alias="out-data")
    err_data: Base64Bytes = Field(default=b"", alias="err-data")
    out_truncated: bool = Field(default=False, alias="out-truncated")
    err_truncated: bool = Field(default=False, alias="err-truncated")

    @property
    def returncode(self) -> int:
        """The exit status; 128 + N says that signal N ended the command."""
        return 128 + self.signal if self.exitcode is None else self.exitcode


class Piece(BaseModel):
    """What guest-file-read gives of a file."""

    content: Base64Bytes = Field(default=b"", alias="buf-b64")
    eof: bool


class _Written(BaseModel):
    count: int


class _Address(BaseModel):
    address: str = Field(alias="ip-address")


class _Interface(BaseModel):
    addresses: list[_Address] = Field(default=[], alias="ip-addresses")


@dataclass(frozen=True)
class Agent:
    """The agent of one running guest: ``domain`` is its UUID, ``name`` what people call it."""

    hypervisor: Hypervisor
    domain: str
    name: str

    def ask(self, command: str, *, timeout: int = _ANSWER, **arguments: Any) -> Any:
        """Return the agent's answer to ``command``; raises `Silent` when there is none within ``timeout`` seconds."""
        request = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        done = self.hypervisor.virsh("qemu-agent-command", "--timeout", str(timeout), self.domain, request, check=False)
        if done.returncode:
            raise Silent(
                f"the agent of {self.name} does not answer: {done.complaint}",
                f"see whether the guest is up: ./inv info {self.name}",
            )
        try:
            return json.loads(done.text)["return"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._nonsense(command) from error

    def answers(self) -> bool:
        """Say whether the agent answers now."""
        asked = ("qemu-agent-command", "--timeout", "5", self.domain, '{"execute":"guest-ping"}')
        return self.hypervisor.virsh(*asked, check=False).returncode == 0

    def begin(self, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        """Start ``argv`` in the guest, as root, its output kept by the agent; return its process id there.

        ``stdin`` has `LARGEST_INPUT` bytes at most.
        """
        given: dict[str, Any] = {"input-data": _base64(stdin)} if stdin else {}
        started = self.ask("guest-exec", path=argv[0], arg=list(argv[1:]), **{"capture-output": True}, **given)
        if not isinstance(started, dict) or not isinstance(started.get("pid"), int):
            raise self._nonsense("guest-exec")
        return int(started["pid"])

    def statuses(self, pid: int) -> Iterator[Status]:
        """Yield what the agent says of a command, ever more slowly, until it has ended.

        An answer that is late or missing is asked for again: the agent of a busy guest is slow, its command goes on.
        An agent that was started anew does not know the command, and none tells twice that one has ended.
        """
        pause, heard = _FIRST_POLL, time.monotonic()
        while True:
            try:
                status = self._parsed(Status, "guest-exec-status", pid=pid)
            except VirtrootError as error:
                forgotten = "does not exist" in error.what or "parameter 'pid'" in error.what
                late = time.monotonic() - heard > _SILENCE
                if forgotten or late or self.hypervisor.state(self.domain) != "running":
                    raise
            else:
                heard = time.monotonic()
                yield status
                if status.exited:
                    return
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 600) -> Completed:
        """Run ``argv`` in the guest and return its output and exit status; ``timeout`` is in seconds.

        For output of up to about 1 MiB; see `streaming` for any. Raises `VirtrootError` when the program cannot be
        started, or when the agent kept only a part of what it printed.
        """
        deadline = time.monotonic() + timeout
        for status in self.statuses(self.begin(argv, stdin=stdin)):
            if status.exited:
                if status.out_truncated or status.err_truncated:
                    raise VirtrootError(
                        f"{argv[0]} printed more in {self.name} than its agent keeps", "let it print less"
                    )
                return Completed(tuple(argv), status.returncode, status.out_data, status.err_data)
            if time.monotonic() > deadline:
                break
        raise VirtrootError(
            f"{argv[0]} did not end within {timeout} s in {self.name}", "run it again, or look at the guest"
        )

    def open(self, path: str, offset: int = 0, *, mode: str = "r") -> int:
        """Open a file of the guest, by default for reading from ``offset``, and return its handle."""
        handle = self.ask("guest-file-open", path=path, mode=mode)
        if not isinstance(handle, int):
            raise self._nonsense("guest-file-open")
        if offset:
            self.ask("guest-file-seek", handle=handle, offset=offset, whence="set")
        return handle

    def read(self, handle: int, size: int) -> Piece:
        """Return up to ``size`` bytes of an open file."""
        return self._parsed(Piece, "guest-file-read", handle=handle, count=size)

    def write(self, path: str, content: bytes) -> None:
        """Write a file of the guest, which is there from the first byte on."""
        handle = self.open(path, mode="w")
        for start in range(0, len(content), LARGEST_INPUT):
            piece = content[start : start + LARGEST_INPUT]
            written = self._parsed(_Written, "guest-file-write", handle=handle, **{"buf-b64": _base64(piece)})
            if written.count != len(piece):
                raise VirtrootError(f"{path} was not written in {self.name}: No space left on device", "make room")
        self.ask("guest-file-close", handle=handle)

    def addresses(self) -> list[str]:
        """Return the addresses that the guest says it has, but for those that only itself can reach."""
        command = "guest-network-get-interfaces"
        try:
            interfaces = TypeAdapter(list[_Interface]).validate_python(self.ask(command, timeout=5))
        except ValidationError as error:
            raise self._nonsense(command) from error
        told = (addresses.parse(each.address) for interface in interfaces for each in interface.addresses)
        return list(filter(None, told))

    def _parsed(self, form: type[_Answer], command: str, **arguments: Any) -> _Answer:
        try:
            return form.model_validate(self.ask(command, **arguments))
        except ValidationError as error:
            raise self._nonsense(command) from error

    def _nonsense(self, command: str) -> VirtrootError:
        return VirtrootError(
            f"the agent of {self.name} answers {command} with something else", "look at the agent inside the guest"
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
