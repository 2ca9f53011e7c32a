"""Two testinfra backends: a tree on a target, and a running guest through its agent."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult

from pipelines.guest.agent import Agent
from pipelines.target.target import Target

#: The root, read-only, in namespaces of its own and without capabilities: what a guest left there can do no harm.
_CONFINED = (
    # The parent of all: when it ends, by itself or as its command is ended, so does everything that it started.
    "timeout", "--signal=KILL", "120",
    "bwrap", "--ro-bind", "{root}", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp",
    # Without a session of its own, a program could type into the terminal that verify was called on.
    "--new-session", "--die-with-parent",
    "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL",
    "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin",
)  # fmt: skip


#: Bytes that a program of a root may print.
_LIMIT = 16 << 20


class ChrootBackend(BaseBackend):  # type: ignore[misc]
    """A root directory on a target.

    ``confined`` is for roots that a guest may have written to, on a machine that matters; a builder is thrown away, and
    has no right to make namespaces.
    """

    NAME = "chroot"

    def __init__(self, target: Target, root: str, *, confined: bool) -> None:
        super().__init__(root)
        self._target = target
        enter = _CONFINED if confined else ("chroot", "{root}")
        self.enter = [part.replace("{root}", root) for part in enter]

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        done = self._target.run([*self.enter, "sh", "-c", line], check=False, limit=_LIMIT)
        return self.result(done.returncode, line.encode(), done.stdout, done.stderr)


class AgentBackend(BaseBackend):  # type: ignore[misc]
    """A running guest, through its agent."""

    NAME = "agent"

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent.name)
        self._agent = agent

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        done = self._agent.run(["/bin/sh", "-c", line])
        return self.result(done.returncode, line.encode(), done.stdout, done.stderr)
