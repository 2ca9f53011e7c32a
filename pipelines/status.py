"""Status: how each recipe fares, and whether its nights are run at all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipelines.artifact import pruning
from pipelines.artifact.history import Night, state_since
from pipelines.artifact.store import Store
from pipelines.builder import inputs
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.settings import Settings, time_span
from pipelines.text import age, table

#: Seconds that the clocks of machines which share an output directory may differ.
_CLOCKS_DIFFER = 600


def status(settings: Settings, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return what there is to know of each recipe with builds or in the checkout, as plain data; ages in seconds.

    ``checked`` is the time since the last night that found the recipe in order, None where there was none. ``due`` says
    whether nights are to be expected: of recipes that every night builds, and of those that some night built and that
    still are there.
    """
    store, now = Store(settings.output_dir), now or datetime.now(UTC)
    nightly = {path.stem for path in inputs.nightly()}
    return [_row_or_why(store, name, now, every=name in nightly) for name in sorted({*store.recipes(), *nightly})]


def _row_or_why(store: Store, name: str, now: datetime, *, every: bool) -> dict[str, Any]:
    """Return the row of a recipe; of one whose files cannot be read it says why, and the others are told."""
    try:
        return _row(store, name, now, every=every)
    except VirtrootError as error:
        nothing = {"golden": "", "age": None, "since": "", "checked": None}
        return {"recipe": name, **nothing, "outcome": "cannot be told", "why": error.what, "due": every}


def _row(store: Store, name: str, now: datetime, *, every: bool) -> dict[str, Any]:
    golden = store.golden(name).artifact
    nights = store.history(name).nights()
    last = nights[-1] if nights else None
    good = next((night for night in reversed(nights) if night.good), None)
    source = store.source(name)
    return {
        "recipe": name,
        "golden": golden.stored_id if golden else "",
        "age": _since(pruning.made(golden), now) if golden else None,
        "outcome": last.outcome if last else "",
        "why": last.failure.label if last and last.failure else "",
        "since": state_since(nights),
        "checked": _since(began(good), now) if good else None,
        "due": every or bool(nights and source and source.is_file()),
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return a status as people read it."""
    cells = [("RECIPE", "GOLDEN ROOT", "AGE", "LAST GOOD NIGHT", "LAST NIGHT")]
    for row in rows:
        outcome = ": ".join(filter(None, (row["outcome"], row["why"]))) or "-"
        build = row["golden"].partition("/")[2] or "-"
        cells.append(
            (
                row["recipe"],
                build,
                age(row["age"]),
                age(row["checked"]) if row["checked"] is not None else "never" if row["due"] else "-",
                outcome,
            )
        )
    return table(cells)


def refuse_stale(rows: list[dict[str, Any]], max_age: str) -> None:
    """Raise `CheckFailed` where the last good night of a recipe is longer ago than ``max_age``, or never was.

    One in the future, which a clock gone wrong has recorded, is none.
    """
    longest = time_span(max_age).total_seconds()
    due = [row for row in rows if row["due"]]
    stale = [row["recipe"] for row in due if row["checked"] is None or not -_CLOCKS_DIFFER <= row["checked"] <= longest]
    if stale:
        raise CheckFailed(
            f"no good night within {max_age}: {', '.join(stale)}",
            "./inv nightly runs one; see when the next is due: ./inv nightly-timer --show",
        )


def began(night: Night) -> datetime:
    """Return when a night began."""
    return datetime.fromisoformat(night.time)


def _since(moment: datetime, now: datetime) -> int:
    return int((now - moment).total_seconds())
