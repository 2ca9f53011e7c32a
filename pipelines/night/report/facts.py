"""What a report says of a recipe, taken from its history and from the builds that still are there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

from pipelines.artifact import pruning
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.build_id import BuildId
from pipelines.artifact.difference import Difference, compare, join
from pipelines.artifact.history import Night, state_since
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

#: How far back pages go; a history goes back to its beginning.
SHOWN = timedelta(days=90)

#: Nights of that time that are shown at most: somebody may run one every few minutes.
_MOST = 200


@dataclass(frozen=True)
class RecipeFacts:
    """A recipe: its nights, oldest first, and where its builds are; ``trouble`` is why its history cannot be read."""

    name: str
    store: Store
    nights: tuple[Night, ...]
    trouble: str = ""

    @property
    def golden(self) -> Artifact | None:
        """The golden root, if there is one."""
        return self.store.golden(self.name).artifact

    @property
    def golden_time(self) -> str:
        """When the golden root was built, in ISO 8601; empty where there is none, or its name does not tell."""
        golden = self.golden
        made = pruning.get_build_time(golden) if golden else pruning.UNKNOWN
        return made.isoformat() if made != pruning.UNKNOWN else ""

    @property
    def last(self) -> Night | None:
        """The newest night."""
        return self.nights[-1] if self.nights else None

    @property
    def state(self) -> str:
        """In a word: ``good``, ``failed``, or ``unknown`` before the first night."""
        return "unknown" if self.last is None else "good" if self.last.good else "failed"

    @property
    def since(self) -> str:
        """The time of the night that this state began with."""
        return state_since(self.nights)

    @property
    def last_good(self) -> Night | None:
        """The newest night that found the recipe in order."""
        return next((night for night in reversed(self.nights) if night.good), None)

    @property
    def first_broken(self) -> Night | None:
        """The night that the present failure began with."""
        return next(reversed(list(takewhile(lambda night: not night.good, reversed(self.nights)))), None)

    @property
    def recent(self) -> tuple[Night, ...]:
        """The nights that are shown, by their times."""
        if self.last is None:
            return ()
        end = self.last.began
        shown = [night for night in self.nights if timedelta() <= end - night.began < SHOWN]
        return tuple(sorted(shown, key=lambda night: night.began)[-_MOST:])

    def artifact(self, night: Night) -> Artifact | None:
        """Return what a night built or found, where it still is there and this recipe's own."""
        named = BuildId(night.artifact)
        found = self.store.find(named) if named.recipe == self.name and named.build else None
        return found if found and not found.directory.is_symlink() else None

    def failed_log(self, night: Night) -> Path | None:
        """Return the log of a build that failed in ``night``: only that of the last one is kept."""
        log = self.store.failed_log(self.name)
        kept = night is self.last and not night.good and not night.artifact and log.is_file()
        return log if kept else None

    def between(self, one: Night, other: Night) -> Difference | None:
        """Return what the packages of two nights differ in, None where that is not known any more.

        It is taken from the manifests or, where one is gone, from the records of the nights between.
        """
        if one.artifact == other.artifact:
            return Difference() if one.artifact else None
        if not one.artifact or not other.artifact:
            return None
        then, now = self.artifact(one), self.artifact(other)
        try:
            if then and now:
                return compare(then.manifest.packages, now.manifest.packages, now.manifest.recipe.distro)
            steps = self._steps(one, other)
            if len(steps) == 1:
                return steps[0]
            some = next((build for build in (now, then, self.golden) if build), None)
            return join([step for step in steps if step], some.manifest.recipe.distro) if some else None
        except VirtrootError:
            return None

    def _steps(self, one: Night, other: Night) -> list[Difference | None]:
        """Return what changed from night to night behind ``one`` up to ``other``; one that is not known comes first."""
        first, last = self.nights.index(one), self.nights.index(other)
        steps = [night.since_last for night in self.nights[first + 1 : last + 1] if night.artifact]
        return [None] if None in steps or not steps else steps


def gather(store: Store, name: str) -> RecipeFacts:
    """Return what there is to say of a recipe; a history that cannot be read is part of that."""
    try:
        return RecipeFacts(name, store, tuple(store.history(name).nights()))
    except VirtrootError as error:
        return RecipeFacts(name, store, (), f"{error.what}: {error.hint}")
