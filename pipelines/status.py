"""Show the state of each recipe, and whether its nightly runs take place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipelines import metrics
from pipelines.artifact import pruning
from pipelines.artifact.build_id import BuildId
from pipelines.artifact.history import RunRecord, state_since
from pipelines.artifact.store import Store
from pipelines.builder import inputs
from pipelines.cli.task import Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.log import result
from pipelines.metrics import Gauge
from pipelines.night import timer
from pipelines.settings import parse_time_span
from pipelines.text import age, table

#: Seconds by which the clocks of machines that share an output directory may differ.
_CLOCKS_DIFFER = 600


@dataclass(frozen=True)
class Row:
    """The state of a recipe. Ages are in seconds.

    ``checked`` is the time since the last nightly run that found the recipe good, None if there was none. ``due`` says
    whether runs are expected: for recipes that each run builds, and for those that some run built and that still
    exist. ``why`` says why the last run failed, or why nothing is known.
    """

    recipe: str
    golden: BuildId
    age: int | None = None
    outcome: str = ""
    why: str = ""
    since: str = ""
    checked: int | None = None
    due: bool = False


def list_status(ctx: CommandContext, now: datetime | None = None) -> list[Row]:
    """Return a row for each recipe that has builds or is in the checkout."""
    store, now = ctx.store, now or datetime.now(UTC)
    nightly = {path.stem for path in inputs.list_nightly(ctx.settings)}
    names = sorted({*store.recipes(), *nightly})
    return [_make_row_or_reason(store, name, now, every=name in nightly) for name in names]


def _make_row_or_reason(store: Store, name: str, now: datetime, *, every: bool) -> Row:
    """Return the row of a recipe. If its files cannot be read, the row says why, so that the others are listed."""
    try:
        return _make_row(store, name, now, every=every)
    except VirtrootError as error:
        return Row(name, BuildId(), outcome="cannot be told", why=error.what, due=every)


def _make_row(store: Store, name: str, now: datetime, *, every: bool) -> Row:
    golden = store.golden(name).artifact
    records = store.history(name).records()
    last = records[-1] if records else None
    good = next((record for record in reversed(records) if record.good), None)
    source = store.source(name)
    return Row(
        recipe=name,
        golden=golden.stored_id if golden else BuildId(),
        age=_seconds_since(pruning.get_build_time(golden), now) if golden else None,
        outcome=last.outcome if last else "",
        why=last.failure.label if last and last.failure else "",
        since=state_since(records),
        checked=_seconds_since(parse_time(good), now) if good else None,
        due=every or bool(records and source and source.is_file()),
    )


def format_table(rows: list[Row]) -> str:
    """Return the rows as a table for people."""
    cells = [("RECIPE", "GOLDEN ROOT", "AGE", "LAST GOOD RUN", "LAST RUN")]
    for row in rows:
        outcome = ": ".join(filter(None, (row.outcome, row.why))) or "-"
        build = row.golden.build or "-"
        cells.append(
            (
                row.recipe,
                build,
                age(row.age),
                age(row.checked) if row.checked is not None else "never" if row.due else "-",
                outcome,
            )
        )
    return table(cells)


def make_metrics(rows: list[Row]) -> str:
    """Return the rows as metrics for Prometheus."""
    golden = Gauge("recipe_golden_age_seconds", "Age of the golden root of a recipe.")
    good = Gauge("recipe_last_good_run_age_seconds", "Time since the last good nightly run of a recipe.")
    failed = Gauge("recipe_last_run_failed", "Whether the last nightly run of a recipe failed.")
    for row in rows:
        golden.add(row.age, recipe=row.recipe)
        good.add(row.checked, recipe=row.recipe)
        failed.add(float(row.outcome == "failed") if row.outcome else None, recipe=row.recipe)
    return metrics.render([golden, good, failed])


def refuse_stale(rows: list[Row], max_age: str) -> None:
    """Raise `CheckFailed` if the last good nightly run of a recipe is older than ``max_age``, or if there was none.

    A run in the future, recorded by a wrong clock, does not count.
    """
    longest = parse_time_span(max_age).total_seconds()
    due = [row for row in rows if row.due]
    stale = [row.recipe for row in due if row.checked is None or not -_CLOCKS_DIFFER <= row.checked <= longest]
    if stale:
        raise CheckFailed(
            f"no good nightly run within {max_age}: {', '.join(stale)}",
            "run ./inv nightly; see ./inv nightly-timer --show for the next scheduled run",
        )


def parse_time(record: RunRecord) -> datetime:
    """Return when a nightly run began."""
    return datetime.fromisoformat(record.time)


def _seconds_since(moment: datetime, now: datetime) -> int:
    return int((now - moment).total_seconds())


@task(
    name="status",
    help={
        "max-age": "maximum age of a recipe's last good run, like 36h",
        "json": "print JSON",
        "prometheus": "print metrics for the node exporter, and exit 0",
    },
)
def status_task(
    c: Context,
    max_age: str = "",
    json: bool = False,
    prometheus: bool = False,
) -> None:
    """Show the state of each recipe; exit 1 if one had no good nightly run for too long.

    ./inv status
    ./inv status --max-age 36h
    """
    if prometheus and json:
        raise VirtrootError("--prometheus excludes --json", "use only one of them")
    ctx = context_of(c, max_age=max_age)
    rows = list_status(ctx)
    if prometheus:
        result(make_metrics(rows))
        return
    print_data(rows if json else format_table(rows))
    following = timer.find_next_run(Path(ctx.settings.project))
    if following and not json:
        result(f"next nightly run: {following}")
    refuse_stale(rows, ctx.settings.max_age)
