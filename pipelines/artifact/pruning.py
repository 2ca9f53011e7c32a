"""Which builds of a recipe are needed no more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.artifact.artifact import Artifact
from pipelines.errors import VirtrootError
from pipelines.log import warn

_BUILD_TIME = "%Y%m%dT%H%M%SZ"

#: When a build was made whose name does not tell: at the beginning of time.
UNKNOWN = datetime.min.replace(tzinfo=UTC)


def stale(
    builds: Sequence[Artifact],
    *,
    keep: int,
    older_than: timedelta | None = None,
    needed: Collection[str] = (),
    now: datetime | None = None,
) -> list[Artifact]:
    """Return those of ``builds`` (all of one recipe) that may go, oldest first.

    Kept are the newest ``keep`` (1 or more), those not ``older_than`` that, those whose id is in ``needed``, pinned
    ones, the last that was found good in a booted guest, those that cannot be read, and those whose directory somebody
    named otherwise than their manifest says.
    """
    builds = [each for each in builds if _readable(each)]
    builds = sorted(builds, key=lambda artifact: (made(artifact), artifact.directory.name))
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
        and (older_than is None or now - made(artifact) > older_than)
    ]


def made(artifact: Artifact) -> datetime:
    """Return when a build began, which its name tells; `UNKNOWN` for any other name."""
    try:
        return datetime.strptime(artifact.directory.name.partition("-")[0], _BUILD_TIME).replace(tzinfo=UTC)
    except ValueError:
        return UNKNOWN


def _readable(artifact: Artifact) -> bool:
    try:
        return bool(artifact.manifest)
    except VirtrootError as error:
        # Who knows what is made from it.
        warn(f"{artifact.stored_id} is left alone: {error.what}")
        return False
