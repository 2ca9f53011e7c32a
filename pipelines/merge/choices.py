"""What the user decided about an upgrade: what is kept, discarded and taken, and how the root is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.errors import VirtrootError
from pipelines.merge import paths
from pipelines.pool import clone_methods
from pipelines.recipe.recipe import kept_by_nobody


@dataclass(frozen=True)
class Choices:
    """What the user said: paths, without a slash before them, to ``keep``; paths or packages to ``discard``.

    ``take`` says for paths of /etc whose is to be had.
    """

    keep: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()
    take: Mapping[str, Literal["old", "new"]] = field(default_factory=dict)

    def remembering(self, kept: Iterable[str]) -> Choices:
        """Return the same with what was ``kept`` earlier, but for what is discarded now."""
        # Rules for what may be kept were others once.
        still = [path for path in kept if not paths.below(path, self.discard) and not kept_by_nobody(path)]
        return replace(self, keep=tuple(dict.fromkeys([*still, *self.keep])))


def decide(take: Sequence[str], keep: Sequence[str], discard: Sequence[str]) -> Choices:
    """Validate what the user decided on the command line; raises `VirtrootError`."""
    taken: dict[str, Literal["old", "new"]] = {}
    for each in take:
        which, _, path = each.partition(":")
        if which not in ("old", "new") or not path.startswith("/etc/"):
            raise VirtrootError(f"--take {each}", "write --take old /etc/PATH or --take new /etc/PATH")
        taken[path.strip("/")] = "old" if which == "old" else "new"
    for each in keep:
        if not each.startswith("/"):
            raise VirtrootError(f"--keep {each}: that is no path in the guest", "begin it with a slash")
    return Choices(tuple(path.strip("/") for path in keep), tuple(path.strip("/") for path in discard), taken)


@dataclass(frozen=True)
class UpgradeOptions:
    """What is asked of an upgrade: the user's ``choices``, one of `roots.WAYS`; the rest are options of the task."""

    choices: Choices = field(default_factory=Choices)
    clone: str = "auto"
    restart: bool = False
    again: bool = False


def options(choices: Choices, *, clone: str, restart: bool, again: bool) -> UpgradeOptions:
    """Validate the options of the task; raises `VirtrootError`."""
    return UpgradeOptions(choices, clone_methods.checked_way(clone), restart, again)
