"""Finds the builds of a recipe that are no longer needed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.artifact.artifact import Artifact
from pipelines.errors import VirtrootError
from pipelines.log import warn

_BUILD_TIME = "%Y%m%dT%H%M%SZ"

#: The time of a build whose name has none: the earliest possible.
UNKNOWN = datetime.min.replace(tzinfo=UTC)


def find_stale(
    builds: Sequence[Artifact],
    *,
    keep: int,
    older_than: timedelta | None = None,
    needed: Collection[str] = (),
    now: datetime | None = None,
) -> list[Artifact]:
    """Return those of ``builds``, all of one recipe, that can be deleted, oldest first.

    These are kept: the newest ``keep`` (1 or more), those not older than ``older_than``, those whose id is in
    ``needed``, pinned ones, the last that passed in a booted guest, those that cannot be read, and those whose
    directory has another name than the manifest says.
    """
    builds = [each for each in builds if _is_readable(each)]
    builds = sorted(builds, key=lambda artifact: (get_build_time(artifact), artifact.directory.name))
    good = [artifact for artifact in builds if artifact.good]
    spared = {artifact.directory for artifact in (*good[-1:], *builds[-keep:])}
    now = now or datetime.now(UTC)
    return [
        artifact
        for artifact in builds
        if artifact.directory not in spared
        and not {artifact.id, artifact.stored_id} & set(needed)
        and not artifact.pinned
        and artifact.id == artifact.stored_id
        and (older_than is None or now - get_build_time(artifact) > older_than)
    ]


def get_build_time(artifact: Artifact) -> datetime:
    """Return the start of a build, from its name; `UNKNOWN` if the name has no time."""
    try:
        return datetime.strptime(artifact.directory.name.partition("-")[0], _BUILD_TIME).replace(tzinfo=UTC)
    except ValueError:
        return UNKNOWN


def _is_readable(artifact: Artifact) -> bool:
    try:
        return bool(artifact.manifest)
    except VirtrootError as error:
        # Keep it: guests may have been made from it.
        warn(f"not deleting {artifact.stored_id}: {error.what}")
        return False
