"""The page of a recipe: its state, what broke it, and its runs as plots and as a table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pipelines.artifact.difference import Difference
from pipelines.artifact.history import RunRecord
from pipelines.night.report import axis, page_parts
from pipelines.night.report.axis import Scale
from pipelines.night.report.facts import SHOWN, RecipeFacts
from pipelines.night.report.html import Element, Node, element, make_document, make_scrolling_box, make_table
from pipelines.night.report.plot import COLOURS, Plot, Series
from pipelines.text import size

#: The most package changes in one table; ./inv diff lists them all.
_CHANGES = 200

_COLUMNS = (
    "Run",
    "Outcome",
    "Reason",
    "Build",
    "Duration",
    "Built in",
    "Stages from the cache",
    "Boot",
    "Packed",
    "Unpacked",
    "Packages changed",
    "Files",
)

_MEANINGS = {
    "promoted": "built, booted, verified, and the new golden root",
    "unchanged": "a build would give the same golden root again",
    "kept": "built, but not promoted",
    "failed": "not promoted: the golden root is unchanged",
}


def make_page(facts: RecipeFacts, now: datetime) -> str:
    """Return the page of a recipe at the time ``now``."""
    body = [
        element("nav", element("a", "All recipes", href="../index.html")),
        element(
            "main",
            element("h1", facts.name),
            *_make_state(facts, now),
            *_make_suspects(facts),
            *_make_plots(facts),
            *_make_runs(facts),
        ),
        page_parts.make_footer(now),
    ]
    return make_document(f"{facts.name}: {facts.state} – virtroot", *body)


def _make_state(facts: RecipeFacts, now: datetime) -> list[Node]:
    since, golden = facts.since, facts.golden
    state: Node = page_parts.make_state_badge(facts.state)
    if since:
        state = _join(state, " since ", page_parts.make_time(since), f" ({page_parts.format_age(since, now)})")
    age = f" ({page_parts.format_age(facts.golden_time, now)} old)"
    items: list[tuple[str, Node]] = [
        ("State", state),
        ("Golden root", _join(golden.directory.name, age) if golden else "none"),
    ]
    if facts.last:
        items.append(
            ("Last run", _join(page_parts.make_outcome_badge(facts.last), ": ", _MEANINGS[facts.last.outcome]))
        )
    if facts.trouble:
        items.append(("Trouble", facts.trouble))
    return [page_parts.make_list(*items)]


def _make_suspects(facts: RecipeFacts) -> list[Node]:
    """Return the section about the start of a failure; for a good recipe, about the changes of the newest run."""
    last = facts.last
    if last is None:
        return [element("p", "No nightly run has been recorded yet.")]
    if facts.first_broken is None:
        known = last.since_golden if last.outcome == "promoted" else last.since_last
        before = "the golden root before it" if last.outcome == "promoted" else "the build before it"
        return [
            element("h2", "This one"),
            _make_run(facts, last),
            *_make_packages(f"Packages between {before} and this one", known, h=3),
        ]
    good, broken = facts.last_good, facts.first_broken
    parts: list[Node] = [element("h2", "Last good, first broken, this one"), element("h3", "Last good")]
    parts.append(_make_run(facts, good) if good else element("p", "No run was good yet."))
    if good:
        parts += _make_packages("Packages between last good and first broken", facts.compare_packages(good, broken))
    if broken is last:
        return [*parts, element("h3", "First broken, and this one"), _make_run(facts, broken)]
    parts += [element("h3", "First broken"), _make_run(facts, broken)]
    parts += _make_packages("Packages between first broken and this one", facts.compare_packages(broken, last))
    return [*parts, element("h3", "This one"), _make_run(facts, last)]


def _make_run(facts: RecipeFacts, record: RunRecord) -> Element:
    items: list[tuple[str, Node]] = [
        ("Night", _join(page_parts.make_time(record.time), " ", page_parts.make_outcome_badge(record)))
    ]
    if record.failure:
        whole = element(
            "details",
            element("summary", "in full"),
            make_scrolling_box("the failure", element("pre", record.failure.text)),
        )
        items.append(
            (
                "Failure",
                _join(f"{record.failure.where}: {record.failure.label}", whole if record.failure.text else None),
            )
        )
    if record.retried:
        items.append(("Booted twice", record.retried))
    items.append(("Build", page_parts.get_build_name(record.artifact) if record.artifact else "nothing was built"))
    if record.commit:
        items.append(("Checkout", f"{record.commit[:12]}{', with changes' if record.dirty else ''}"))
    for kind, verdict in sorted(record.verdicts.items()):
        failed = f", failed: {', '.join(verdict.failures)}" if verdict.failures else ""
        items.append(
            (f"Checks of the {kind}", f"{verdict.tests}, {'passed' if verdict.passed else 'not passed'}{failed}")
        )
    links = _make_links(facts, record)
    if links:
        items.append(("Files", _join(*links)))
    return page_parts.make_list(*items)


def _make_links(facts: RecipeFacts, record: RunRecord) -> list[Node]:
    """Return links to the files of a run that still exist."""
    home, artifact = facts.store.home(facts.name), facts.find_artifact(record)
    log = facts.find_failed_log(record)
    if artifact is None:
        return [page_parts.find_file_link("log", log, home)] if log else []
    # The home directory is not resolved: through links in the paths, the files would not be below it.
    reports = [(path.stem.removeprefix("junit-"), path) for path in artifact.reports()]
    found = [
        page_parts.find_file_link("manifest", artifact.manifest_file, home),
        page_parts.find_file_link("log", artifact.log, home),
        page_parts.find_file_link("console", artifact.console_log, home),
        *(page_parts.find_file_link(f"JUnit {kind}", path, home) for kind, path in reports),
    ]
    there = [each for each in found if each is not None]
    separated: list[Node] = [part for each in there for part in (" · ", each)]
    return separated[1:]


def _make_packages(caption: str, difference: Difference | None, h: int = 4) -> list[Node]:
    heading = element(f"h{h}", caption)
    if difference is None:
        return [heading, element("p", "Not known: a run has no build, or its record is missing.")]
    if not difference:
        return [heading, element("p", "No package was added, removed or changed.")]
    rows = [(change.name, kind, change.before or "–", change.after or "–") for change, kind in difference.kinds()]
    more = element("p", f"{len(rows) - _CHANGES} more, see ./inv diff.") if len(rows) > _CHANGES else None
    title = f"{caption}: {len(rows)}, kernel and systemd first"
    return [heading, make_table(title, ("Package", "Change", "Before", "After"), rows[:_CHANGES], "packages"), more]


def _make_plots(facts: RecipeFacts) -> list[Node]:
    records = facts.recent
    if not records:
        return []
    calendar = axis.make_calendar([record.began for record in records])
    labels = [f"{record.began:%Y-%m-%d %H:%M}" for record in records]
    failed = [not record.good for record in records]

    def plot(name: str, title: str, quantity: str) -> Plot:
        return Plot(name, title, quantity, calendar, labels, failed)

    stages = _make_stage_series(records)
    total = [sum(each.values[place] or 0 for each in stages) for place in range(len(records))]
    boots = [Series("boot", [record.boot_seconds for record in records])]
    sizes = [
        Series("unpacked", [record.unpacked_size for record in records]),
        Series("packed", [record.packed_size for record in records]),
    ]
    parts: list[Node] = [element("h2", f"The last {SHOWN.days} days"), _make_explanation(facts, records)]
    if stages:
        parts.append(plot("build", "Build time by stage", "time").draw_bars(stages, axis.make_time_scale(max(total))))
    if scale := _choose_scale(boots, axis.make_time_scale):
        parts.append(plot("boot", "Boot time", "time").draw_lines(boots, scale))
    if scale := _choose_scale(sizes, axis.make_size_scale):
        parts.append(plot("size", "Size of the root", "size").draw_lines(sizes, scale))
    return parts


def _make_explanation(facts: RecipeFacts, records: tuple[RunRecord, ...]) -> Element:
    more = f" The history has {len(facts.records)} runs." if len(facts.records) > len(records) else ""
    return element(
        "p",
        "A run that found no changes built and booted nothing: it has no bar and no boot time. The hatching marks days "
        f"on which a run was due but did not take place.{more}",
    )


def _make_stage_series(records: tuple[RunRecord, ...]) -> list[Series]:
    """Return the seconds per stage, in the order of the newest builds; stages beyond the colours are combined."""
    order = dict.fromkeys(stage.name for record in reversed(records) for stage in record.stages)
    names = list(order)
    shown = names if len(names) <= COLOURS else names[: COLOURS - 1]

    def spent(record: RunRecord, wanted: Callable[[str], bool]) -> float | None:
        return sum(stage.seconds for stage in record.stages if wanted(stage.name)) if record.stages else None

    def series(name: str, wanted: Callable[[str], bool]) -> Series:
        return Series(name, [spent(record, wanted) for record in records])

    found = [series(name, lambda each, name=name: each == name) for name in shown]  # type: ignore[misc]
    return found if shown == names else [*found, series("other stages", lambda each: each not in shown)]


def _choose_scale(series: list[Series], scale: Callable[[float], Scale]) -> Scale | None:
    known = [value for each in series for value in each.values if value is not None]
    return scale(max(known)) if known else None


def _make_runs(facts: RecipeFacts) -> list[Node]:
    records = facts.recent
    rows = [_make_row(facts, record) for record in reversed(records)]
    return [element("h2", "Runs"), make_table("Runs, newest first", _COLUMNS, rows, "nights")] if rows else []


def _make_row(facts: RecipeFacts, record: RunRecord) -> tuple[Node, ...]:
    cached = sum(stage.cached for stage in record.stages)
    changes = len(record.since_last.changes) if record.since_last is not None else None
    return (
        page_parts.make_time(record.time),
        page_parts.make_outcome_badge(record),
        f"{record.failure.where}: {record.failure.label}" if record.failure else "",
        page_parts.get_build_name(record.artifact),
        _format_seconds(record.seconds),
        _format_seconds(sum(stage.seconds for stage in record.stages)) if record.stages else "–",
        f"{cached} of {len(record.stages)}" if record.stages else "–",
        _format_seconds(record.boot_seconds),
        size(record.packed_size) if record.packed_size is not None else "–",
        size(record.unpacked_size) if record.unpacked_size is not None else "–",
        "–" if changes is None else str(changes),
        _join(*_make_links(facts, record)),
    )


def _format_seconds(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{count:.1f} s" if count < 600 else f"{count / 60:.0f} min"


def _join(*parts: Node) -> Element:
    return element("span", *parts)
