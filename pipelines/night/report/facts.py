"""The facts of a recipe for the report, from its history and its builds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

from pipelines.artifact import pruning
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.build_id import BuildId
from pipelines.artifact.difference import Difference, compare, join
from pipelines.artifact.history import RunRecord, state_since
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

#: How far back the pages go; a history goes back to its beginning.
SHOWN = timedelta(days=90)

#: The most runs that are shown, since they may be only minutes apart.
_MOST = 200


@dataclass(frozen=True)
class RecipeFacts:
    """The runs of a recipe, oldest first, and its builds; ``trouble`` is the reason if its history is unreadable."""

    name: str
    store: Store
    records: tuple[RunRecord, ...]
    trouble: str = ""

    @property
    def golden(self) -> Artifact | None:
        """The golden root, if there is one."""
        return self.store.golden(self.name).artifact

    @property
    def golden_time(self) -> str:
        """When the golden root was built, in ISO 8601; empty if there is none, or if its name has no time."""
        golden = self.golden
        made = pruning.get_build_time(golden) if golden else pruning.UNKNOWN
        return made.isoformat() if made != pruning.UNKNOWN else ""

    @property
    def last(self) -> RunRecord | None:
        """The newest run."""
        return self.records[-1] if self.records else None

    @property
    def state(self) -> str:
        """The state: ``good``, ``failed``, or ``unknown`` before the first run."""
        return "unknown" if self.last is None else "good" if self.last.good else "failed"

    @property
    def since(self) -> str:
        """The time of the run with which this state began."""
        return state_since(self.records)

    @property
    def last_good(self) -> RunRecord | None:
        """The newest run that found the recipe good."""
        return next((record for record in reversed(self.records) if record.good), None)

    @property
    def first_broken(self) -> RunRecord | None:
        """The run with which the current failure began."""
        return next(reversed(list(takewhile(lambda record: not record.good, reversed(self.records)))), None)

    @property
    def recent(self) -> tuple[RunRecord, ...]:
        """The runs that are shown, ordered by time."""
        if self.last is None:
            return ()
        end = self.last.began
        shown = [record for record in self.records if timedelta() <= end - record.began < SHOWN]
        return tuple(sorted(shown, key=lambda record: record.began)[-_MOST:])

    def find_artifact(self, record: RunRecord) -> Artifact | None:
        """Return the artifact that a run built or found, if it still exists and belongs to this recipe, else None."""
        named = BuildId(record.artifact)
        found = self.store.find(named) if named.recipe == self.name and named.build else None
        return found if found and not found.directory.is_symlink() else None

    def find_failed_log(self, record: RunRecord) -> Path | None:
        """Return the log of the build that failed in ``night``, or None: only the log of the newest one is kept."""
        log = self.store.failed_log(self.name)
        kept = record is self.last and not record.good and not record.artifact and log.is_file()
        return log if kept else None

    def compare_packages(self, one: RunRecord, other: RunRecord) -> Difference | None:
        """Return the difference between the packages of two runs, or None if it is not known any more.

        It is computed from the manifests or, if one is missing, from the records of the runs between.
        """
        if one.artifact == other.artifact:
            return Difference() if one.artifact else None
        if not one.artifact or not other.artifact:
            return None
        then, now = self.find_artifact(one), self.find_artifact(other)
        try:
            if then and now:
                return compare(then.manifest.packages, now.manifest.packages, now.manifest.recipe.distro)
            steps = self._list_changes(one, other)
            if len(steps) == 1:
                return steps[0]
            some = next((build for build in (now, then, self.golden) if build), None)
            return join([step for step in steps if step], some.manifest.recipe.distro) if some else None
        except VirtrootError:
            return None

    def _list_changes(self, one: RunRecord, other: RunRecord) -> list[Difference | None]:
        """Return the changes of each run after ``one`` up to ``other``; only None if one of them is unknown."""
        first, last = self.records.index(one), self.records.index(other)
        steps = [record.since_last for record in self.records[first + 1 : last + 1] if record.artifact]
        return [None] if None in steps or not steps else steps


def gather(store: Store, name: str) -> RecipeFacts:
    """Return the facts of a recipe; if its history cannot be read, they say why."""
    try:
        return RecipeFacts(name, store, tuple(store.history(name).records()))
    except VirtrootError as error:
        return RecipeFacts(name, store, (), f"{error.what}: {error.hint}")
