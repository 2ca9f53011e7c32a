"""Which users of libvirt's host can enter a shared directory, or can replace it by another one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.target import programs
from pipelines.target.target import Target


@dataclass(frozen=True)
class Exposure:
    """Which users of libvirt's host have access to a directory.

    ``reached``: other users can enter it. ``nosuid_nodev``: it is on a mount with these two options. ``writers``: the
    directories above it that users other than root can write to, each with a user ID, or -1 for several users.
    """

    reached: bool
    nosuid_nodev: bool
    writers: tuple[tuple[str, int], ...]

    @property
    def is_dangerous(self) -> bool:
        """Whether another user of the host could run a setuid program that a guest wrote there, or use its devices."""
        return self.reached and not self.nosuid_nodev


def inspect(target: Target, directories: Sequence[str]) -> list[Exposure]:
    """Return the exposure of each of ``directories`` on ``target``."""
    if not directories:
        return []
    return [
        Exposure(each["reached"], each["nosuid_nodev"], tuple((path, user) for path, user in each["writers"]))
        for each in programs.inspect_exposure(target, directories)
    ]


def refuse_replaceable(directory: str, exposure: Exposure) -> None:
    """Raise `VirtrootError` if other users could replace ``directory`` by a link to any directory of the host.

    The user who runs this task by sudo is trusted: that user is root already.
    """
    trusted = {0, os.geteuid(), int(os.environ.get("SUDO_UID") or 0)}
    for path, user in exposure.writers:
        if user not in trusted:
            who = "other users" if user == -1 else f"user {user}"
            raise VirtrootError(
                f"{who} may write to {path}, and could replace {directory} by a link to any directory of the host",
                "share a directory whose parents only root can write to, for example one below /srv",
            )


#: The hint for a dangerous share.
REMEDY = "run chmod o-x on a directory above it on the host, mount it with nosuid,nodev, or use a named share"
