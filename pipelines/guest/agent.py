"""The guest agent: commands in a running guest, without network or ssh.

Protocol: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html. The guest controls its agent, so an answer is
accepted only if it has the expected form, and is treated as data.
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

#: Bytes of input in one request: the request is an argument of virsh, limited to 128 KiB, and the input is base64.
LARGEST_INPUT = 88 << 10

#: Seconds to wait for one answer, and seconds that an agent which is polled may be silent.
_ANSWER_SECONDS, _SILENCE_SECONDS = 20, 90


class Silent(VirtrootError):
    """The agent does not answer."""


class Status(BaseModel):
    """The answer to guest-exec-status."""

    exited: bool
    exitcode: int | None = None
    signal: int = 0
    out_data: Base64Bytes = Field(default=b"", alias="out-data")
    err_data: Base64Bytes = Field(default=b"", alias="err-data")
    out_truncated: bool = Field(default=False, alias="out-truncated")
    err_truncated: bool = Field(default=False, alias="err-truncated")

    @property
    def returncode(self) -> int:
        """The exit status; 128 + N if signal N ended the command."""
        return 128 + self.signal if self.exitcode is None else self.exitcode


class Piece(BaseModel):
    """The answer to guest-file-read."""

    content: Base64Bytes = Field(default=b"", alias="buf-b64")
    eof: bool


class _Written(BaseModel):
    count: int


class _Address(BaseModel):
    address: str = Field(alias="ip-address")


class _Interface(BaseModel):
    addresses: list[_Address] = Field(default=[], alias="ip-addresses")


class UnknownCommand(Silent):
    """The agent does not know a command, because it was restarted since."""


class GuestFull(Silent):
    """The guest has no space for what is sent to it."""


def _find_kind(complaint: str) -> type[Silent]:
    """Return the kind of an error that the agent reports; virsh passes on its text alone."""
    if "does not exist" in complaint or "parameter 'pid'" in complaint:
        return UnknownCommand
    return GuestFull if "No space left" in complaint else Silent


@dataclass(frozen=True)
class Agent:
    """The agent of a running guest: ``domain`` is the UUID, ``name`` the guest's name for messages."""

    hypervisor: Hypervisor
    domain: str
    name: str

    def ask(self, command: str, *, timeout: int = _ANSWER_SECONDS, **arguments: Any) -> Any:
        """Return the agent's answer to ``command``; raises `Silent` if there is none within ``timeout`` seconds."""
        request = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        done = self.hypervisor.virsh("qemu-agent-command", "--timeout", str(timeout), self.domain, request, check=False)
        if done.returncode:
            raise _find_kind(done.complaint)(
                f"the agent of {self.name} does not answer: {done.complaint}",
                f"check whether the guest is up: ./inv info {self.name}",
            )
        try:
            return json.loads(done.text)["return"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._make_invalid_answer_error(command) from error

    def is_answering(self) -> bool:
        """Return whether the agent answers now."""
        asked = ("qemu-agent-command", "--timeout", "5", self.domain, '{"execute":"guest-ping"}')
        return self.hypervisor.virsh(*asked, check=False).returncode == 0

    def start_command(self, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        """Start ``argv`` in the guest as root and return its process ID there; the agent collects the output.

        ``stdin`` has at most `LARGEST_INPUT` bytes.
        """
        given: dict[str, Any] = {"input-data": _encode(stdin)} if stdin else {}
        started = self.ask("guest-exec", path=argv[0], arg=list(argv[1:]), **{"capture-output": True}, **given)
        if not isinstance(started, dict) or not isinstance(started.get("pid"), int):
            raise self._make_invalid_answer_error("guest-exec")
        return int(started["pid"])

    def poll(self, pid: int) -> Iterator[Status]:
        """Yield the status of a command, at growing intervals, until it has ended.

        A late or missing answer is asked for again: the agent of a busy guest is slow while the command continues. An
        agent that was restarted does not know the command, and an agent reports the end of a command only once.
        """
        pause, heard = _FIRST_POLL, time.monotonic()
        while True:
            try:
                status = self._ask_for(Status, "guest-exec-status", pid=pid)
            except VirtrootError as error:
                late = time.monotonic() - heard > _SILENCE_SECONDS
                if isinstance(error, UnknownCommand) or late or self.hypervisor.state(self.domain) != "running":
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

        Use it for output up to about 1 MiB, and `command_stream` for more. Raises `VirtrootError` if the program cannot
        be started, or if the agent dropped a part of the output.
        """
        deadline = time.monotonic() + timeout
        for status in self.poll(self.start_command(argv, stdin=stdin)):
            if status.exited:
                if status.out_truncated or status.err_truncated:
                    raise VirtrootError(
                        f"{argv[0]} printed more than the agent of {self.name} stores",
                        "reduce the output of the command",
                    )
                return Completed(tuple(argv), status.returncode, status.out_data, status.err_data)
            if time.monotonic() > deadline:
                break
        raise VirtrootError(
            f"{argv[0]} did not end within {timeout} s in {self.name}", "run it again, or check the state of the guest"
        )

    def open(self, path: str, offset: int = 0, *, mode: str = "r") -> int:
        """Open a file of the guest, by default for reading, at ``offset``; return its handle."""
        handle = self.ask("guest-file-open", path=path, mode=mode)
        if not isinstance(handle, int):
            raise self._make_invalid_answer_error("guest-file-open")
        if offset:
            self.ask("guest-file-seek", handle=handle, offset=offset, whence="set")
        return handle

    def read(self, handle: int, size: int) -> Piece:
        """Return at most ``size`` bytes of an open file."""
        return self._ask_for(Piece, "guest-file-read", handle=handle, count=size)

    def write(self, path: str, content: bytes) -> None:
        """Write a file of the guest in place; readers can see it before it is complete."""
        handle = self.open(path, mode="w")
        for start in range(0, len(content), LARGEST_INPUT):
            piece = content[start : start + LARGEST_INPUT]
            written = self._ask_for(_Written, "guest-file-write", handle=handle, **{"buf-b64": _encode(piece)})
            if written.count != len(piece):
                raise VirtrootError(f"cannot write {path} in {self.name}: No space left on device", "free some space")
        self.ask("guest-file-close", handle=handle)

    def list_addresses(self) -> list[str]:
        """Return the addresses that the guest reports, without those that are reachable only from inside it."""
        command = "guest-network-get-interfaces"
        try:
            interfaces = TypeAdapter(list[_Interface]).validate_python(self.ask(command, timeout=5))
        except ValidationError as error:
            raise self._make_invalid_answer_error(command) from error
        found = (addresses.parse(each.address) for interface in interfaces for each in interface.addresses)
        return list(filter(None, found))

    def _ask_for(self, form: type[_Answer], command: str, **arguments: Any) -> _Answer:
        try:
            return form.model_validate(self.ask(command, **arguments))
        except ValidationError as error:
            raise self._make_invalid_answer_error(command) from error

    def _make_invalid_answer_error(self, command: str) -> VirtrootError:
        return VirtrootError(
            f"the agent of {self.name} sent an invalid answer to {command}", "check the agent inside the guest"
        )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
