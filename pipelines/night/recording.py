"""The record of a nightly run for one recipe: what is in it, writing it, and the notices that follow."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from pipelines.artifact import difference
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import Failure, History, RunRecord, state_since
from pipelines.artifact.reserve import Reserve
from pipelines.artifact.store import Store
from pipelines.errors import Phase, VirtrootError
from pipelines.log import warn
from pipelines.night import notice
from pipelines.settings import Settings


def collect_facts(
    store: Store, artifact: Artifact, before: Artifact | None, records: Sequence[RunRecord], known: Collection[str]
) -> dict[str, Any]:
    """Return the fields of a run record that describe ``artifact``.

    ``before`` is the golden root, ``records`` are those of earlier runs, ``known`` the builds that existed before.
    """
    manifest = artifact.manifest
    last = next((each.artifact for each in reversed(records) if each.artifact), "")
    return {
        "artifact": artifact.id,
        "plan": manifest.plan,
        "stages": () if artifact.stored_id in known else manifest.stages,
        "packed_size": manifest.rootfs.size,
        "unpacked_size": manifest.rootfs.unpacked_size,
        "since_last": _compare_with(store, last, artifact),
        "since_golden": _compare_with(store, before.stored_id if before else "", artifact),
    }


def _compare_with(store: Store, previous: str, artifact: Artifact) -> difference.Difference | None:
    made = store.find(previous) if previous else None
    if made is None:
        return None
    try:
        now, then = artifact.manifest, made.manifest
    except VirtrootError as error:
        warn(f"cannot compare {artifact.stored_id} with {previous}: {error.what}")
        return None
    return difference.compare(then.packages, now.packages, now.recipe.distro)


def record_and_notify(record: RunRecord, store: Store, settings: Settings) -> RunRecord:
    """Record a run and, if the state of its recipe changed, send notices; return the final record.

    A run that cannot be recorded counts as failed, since nobody would notice it otherwise; the others continue.
    """
    history = store.history(record.recipe)
    records: list[RunRecord] = []
    try:
        records = history.records()
        _record(history, record, settings)
    except VirtrootError as error:
        warn(f"{record.recipe}: {error.what}")
        failure = record.failure or Failure.of(Phase.ENGINE, error.what, str(error))
        record = record.model_copy(update={"outcome": "failed", "failure": failure})
    previous = records[-1] if records else None
    if record.good == (previous.good if previous else True):
        return record
    document = json.dumps(
        {
            "recipe": record.recipe,
            "state": record.state,
            "former_state": previous.state if previous else "",
            "former_since": state_since(records),
            "night": record.model_dump(mode="json"),
        }
    )
    for command in (settings.on_failure if not record.good else "", settings.on_change):
        if command:
            notice.send(command, document)
    return record


def _record(history: History, record: RunRecord, settings: Settings) -> None:
    try:
        history.append(record)
    except VirtrootError as error:
        if not Reserve(settings.output_dir).release():
            raise
        warn(f"{error.what}: using the disk space that was reserved for this")
        history.append(record)
