"""What the user chose for an upgrade: what is kept, discarded and taken, and the options of the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.errors import VirtrootError
from pipelines.merge import paths
from pipelines.pool import clone_methods
from pipelines.recipe.recipe import explain_not_kept


@dataclass(frozen=True)
class Choices:
    """Hold the user's choices: paths to ``keep``, and paths or packages to ``discard``.

    Paths have no slash before them. ``take`` says for paths of /etc whether the old or the new version is taken.
    """

    keep: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()
    take: Mapping[str, Literal["old", "new"]] = field(default_factory=dict)

    def add_kept(self, kept: Iterable[str]) -> Choices:
        """Return these choices with the paths that were ``kept`` at earlier upgrades, unless they are discarded now."""
        # Earlier versions let paths be kept that this one refuses.
        still = [path for path in kept if not paths.is_below(path, self.discard) and not explain_not_kept(path)]
        return replace(self, keep=tuple(dict.fromkeys([*still, *self.keep])))


def parse_choices(take: Sequence[str], keep: Sequence[str], discard: Sequence[str]) -> Choices:
    """Return the choices of the command line; raises `VirtrootError` for invalid ones."""
    taken: dict[str, Literal["old", "new"]] = {}
    for each in take:
        which, _, path = each.partition(":")
        if which not in ("old", "new") or not path.startswith("/etc/"):
            raise VirtrootError(
                f"--take: invalid choice {each.replace(':', ' ', 1)!r}",
                "use --take old /etc/PATH or --take new /etc/PATH",
            )
        taken[path.strip("/")] = "old" if which == "old" else "new"
    for each in keep:
        if not each.startswith("/"):
            raise VirtrootError(f"--keep {each}: not a path in the guest", "begin it with a slash")
    return Choices(tuple(path.strip("/") for path in keep), tuple(path.strip("/") for path in discard), taken)


@dataclass(frozen=True)
class UpgradeOptions:
    """Hold the options of an upgrade: the user's ``choices`` and a clone method; the others are those of the task."""

    choices: Choices = field(default_factory=Choices)
    clone: str = "auto"
    restart: bool = False
    again: bool = False


def parse_options(choices: Choices, *, clone: str, restart: bool, again: bool) -> UpgradeOptions:
    """Return the options of the task; raises `VirtrootError` for an invalid clone method."""
    return UpgradeOptions(choices, clone_methods.check_method(clone), restart, again)
