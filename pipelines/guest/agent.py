"""The guest agent: commands in a running guest, with neither network nor ssh."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor

_FIRST_POLL, _SLOWEST_POLL = 0.05, 1.0


@dataclass(frozen=True)
class Agent:
    """The QEMU guest agent of one running guest; protocol: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html."""

    hypervisor: Hypervisor
    name: str

    def _ask(self, command: str, **arguments: Any) -> Any:
        request = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        answer = self.hypervisor.virsh("qemu-agent-command", self.name, request, check=False)
        if answer.returncode:
            raise VirtrootError(
                f"the agent of {self.name} does not answer: {answer.complaint}",
                f"see whether the guest is up: ./inv start --name {self.name}",
            )
        return json.loads(answer.text)["return"]

    def answers(self) -> bool:
        """Say whether the agent answers now."""
        request = '{"execute":"guest-ping"}'
        return (
            self.hypervisor.virsh("qemu-agent-command", "--timeout", "5", self.name, request, check=False).returncode
            == 0
        )

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 600) -> Completed:
        """Run ``argv`` in the guest, as root, and return its output and exit status; ``timeout`` is in seconds.

        A status of 128 + N says that signal N ended it. Raises `VirtrootError` when the program cannot be started.
        """
        given = {"input-data": base64.b64encode(stdin).decode()} if stdin else {}
        started = self._ask("guest-exec", path=argv[0], arg=list(argv[1:]), **{"capture-output": True}, **given)
        deadline, pause = time.monotonic() + timeout, _FIRST_POLL
        while not (status := self._ask("guest-exec-status", pid=started["pid"]))["exited"]:
            if time.monotonic() > deadline:
                raise VirtrootError(
                    f"{argv[0]} did not end within {timeout} s in {self.name}", "run it again, or look at the guest"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL)
        return Completed(
            tuple(argv),
            status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0),
            base64.b64decode(status.get("out-data", "")),
            base64.b64decode(status.get("err-data", "")),
        )
