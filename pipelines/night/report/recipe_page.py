"""The page of a recipe: its state, what broke it, its nights as plots and as a table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pipelines.artifact.difference import Difference
from pipelines.artifact.history import Night
from pipelines.night.report import axis, page_parts
from pipelines.night.report.axis import Scale
from pipelines.night.report.facts import SHOWN, RecipeFacts
from pipelines.night.report.html import Element, Node, document, element, scrolling, table
from pipelines.night.report.plot import COLOURS, Plot, Series
from pipelines.text import size

#: Changes of packages in one table; ./inv diff has them all.
_CHANGES = 200

_COLUMNS = (
    "Night",
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
    "unchanged": "a build would give the golden root again",
    "kept": "built, but not promoted",
    "failed": "not promoted: the golden root stays what it was",
}


def page(facts: RecipeFacts, now: datetime) -> str:
    """Return the page of a recipe as it is at ``now``."""
    body = [
        element("nav", element("a", "All recipes", href="../index.html")),
        element(
            "main", element("h1", facts.name), *_state(facts, now), *_suspects(facts), *_plots(facts), *_nights(facts)
        ),
        page_parts.written(now),
    ]
    return document(f"{facts.name}: {facts.state} – virtroot", *body)


def _state(facts: RecipeFacts, now: datetime) -> list[Node]:
    since, golden = facts.since, facts.golden
    state: Node = page_parts.state(facts.state)
    if since:
        state = _joined(state, " since ", page_parts.moment(since), f" ({page_parts.ago(since, now)})")
    age = f" ({page_parts.ago(facts.golden_time, now)} old)"
    told: list[tuple[str, Node]] = [
        ("State", state),
        ("Golden root", _joined(golden.directory.name, age) if golden else "none"),
    ]
    if facts.last:
        told.append(("Last night", _joined(page_parts.outcome(facts.last), ": ", _MEANINGS[facts.last.outcome])))
    if facts.trouble:
        told.append(("Trouble", facts.trouble))
    return [page_parts.facts(*told)]


def _suspects(facts: RecipeFacts) -> list[Node]:
    """Show what a failure began with; for a recipe in order, what the newest night brought."""
    last = facts.last
    if last is None:
        return [element("p", "No night has been recorded yet.")]
    if facts.first_broken is None:
        known = last.since_golden if last.outcome == "promoted" else last.since_last
        before = "the golden root before it" if last.outcome == "promoted" else "the build before it"
        return [
            element("h2", "This one"),
            _night(facts, last),
            *_packages(f"Packages between {before} and this one", known, h=3),
        ]
    good, broken = facts.last_good, facts.first_broken
    parts: list[Node] = [element("h2", "Last good, first broken, this one"), element("h3", "Last good")]
    parts.append(_night(facts, good) if good else element("p", "It never was in order."))
    if good:
        parts += _packages("Packages between last good and first broken", facts.between(good, broken))
    if broken is last:
        return [*parts, element("h3", "First broken, and this one"), _night(facts, broken)]
    parts += [element("h3", "First broken"), _night(facts, broken)]
    parts += _packages("Packages between first broken and this one", facts.between(broken, last))
    return [*parts, element("h3", "This one"), _night(facts, last)]


def _night(facts: RecipeFacts, night: Night) -> Element:
    told: list[tuple[str, Node]] = [("Night", _joined(page_parts.moment(night.time), " ", page_parts.outcome(night)))]
    if night.failure:
        whole = element(
            "details", element("summary", "in full"), scrolling("the failure", element("pre", night.failure.text))
        )
        told.append(
            ("Failure", _joined(f"{night.failure.where}: {night.failure.label}", whole if night.failure.text else None))
        )
    if night.retried:
        told.append(("Booted twice", night.retried))
    told.append(("Build", page_parts.build_name(night.artifact) if night.artifact else "nothing was built"))
    if night.commit:
        told.append(("Checkout", f"{night.commit[:12]}{', with changes' if night.dirty else ''}"))
    for kind, verdict in sorted(night.verdicts.items()):
        failed = f", failed: {', '.join(verdict.failures)}" if verdict.failures else ""
        told.append(
            (f"Checks of the {kind}", f"{verdict.tests}, {'passed' if verdict.passed else 'not passed'}{failed}")
        )
    links = _links(facts, night)
    if links:
        told.append(("Files", _joined(*links)))
    return page_parts.facts(*told)


def _links(facts: RecipeFacts, night: Night) -> list[Node]:
    """Return links to the files of a night that still are there."""
    home, artifact = facts.store.home(facts.name), facts.artifact(night)
    log = facts.failed_log(night)
    if artifact is None:
        return [page_parts.file_link("log", log, home)] if log else []
    # Through links of the directory's own the files would not be below it.
    reports = [(path.stem.removeprefix("junit-"), path) for path in artifact.reports()]
    found = [
        page_parts.file_link("manifest", artifact.manifest_file, home),
        page_parts.file_link("log", artifact.log, home),
        page_parts.file_link("console", artifact.console_log, home),
        *(page_parts.file_link(f"JUnit {kind}", path, home) for kind, path in reports),
    ]
    there = [each for each in found if each is not None]
    separated: list[Node] = [part for each in there for part in (" · ", each)]
    return separated[1:]


def _packages(caption: str, difference: Difference | None, h: int = 4) -> list[Node]:
    heading = element(f"h{h}", caption)
    if difference is None:
        return [heading, element("p", "Not known: one of them has no build, or no record of it is left.")]
    if not difference:
        return [heading, element("p", "None came, went or changed its version.")]
    rows = [(change.name, kind, change.before or "–", change.after or "–") for change, kind in difference.kinds()]
    more = element("p", f"{len(rows) - _CHANGES} more: ./inv diff has them.") if len(rows) > _CHANGES else None
    told = f"{caption}: {len(rows)}, kernel and systemd first"
    return [heading, table(told, ("Package", "Change", "Before", "After"), rows[:_CHANGES], "packages"), more]


def _plots(facts: RecipeFacts) -> list[Node]:
    nights = facts.recent
    if not nights:
        return []
    calendar = axis.calendar([night.began for night in nights])
    labels = [f"{night.began:%Y-%m-%d %H:%M}" for night in nights]
    failed = [not night.good for night in nights]

    def plot(name: str, title: str, quantity: str) -> Plot:
        return Plot(name, title, quantity, calendar, labels, failed)

    stages = _stages(nights)
    total = [sum(each.values[place] or 0 for each in stages) for place in range(len(nights))]
    boots = [Series("boot", [night.boot_seconds for night in nights])]
    sizes = [
        Series("unpacked", [night.unpacked_size for night in nights]),
        Series("packed", [night.packed_size for night in nights]),
    ]
    parts: list[Node] = [element("h2", f"The last {SHOWN.days} days"), _explained(facts, nights)]
    if stages:
        parts.append(plot("build", "Build time by stage", "time").bars(stages, axis.seconds(max(total))))
    if scale := _scale(boots, axis.seconds):
        parts.append(plot("boot", "Boot time", "time").lines(boots, scale))
    if scale := _scale(sizes, axis.sizes):
        parts.append(plot("size", "Size of the root", "size").lines(sizes, scale))
    return parts


def _explained(facts: RecipeFacts, nights: tuple[Night, ...]) -> Element:
    more = f" The history has {len(facts.nights)} nights." if len(facts.nights) > len(nights) else ""
    return element(
        "p",
        "A night that found nothing changed built and booted nothing: it has no bar and no boot time. Hatched is where "
        f"a night was due and none ran.{more}",
    )


def _stages(nights: tuple[Night, ...]) -> list[Series]:
    """Return seconds per stage, in the order of the newest builds; stages beyond the colours are one."""
    order = dict.fromkeys(stage.name for night in reversed(nights) for stage in night.stages)
    names = list(order)
    shown = names if len(names) <= COLOURS else names[: COLOURS - 1]

    def spent(night: Night, wanted: Callable[[str], bool]) -> float | None:
        return sum(stage.seconds for stage in night.stages if wanted(stage.name)) if night.stages else None

    def series(name: str, wanted: Callable[[str], bool]) -> Series:
        return Series(name, [spent(night, wanted) for night in nights])

    found = [series(name, lambda each, name=name: each == name) for name in shown]  # type: ignore[misc]
    return found if shown == names else [*found, series("other stages", lambda each: each not in shown)]


def _scale(series: list[Series], scale: Callable[[float], Scale]) -> Scale | None:
    known = [value for each in series for value in each.values if value is not None]
    return scale(max(known)) if known else None


def _nights(facts: RecipeFacts) -> list[Node]:
    nights = facts.recent
    rows = [_row(facts, night) for night in reversed(nights)]
    return [element("h2", "Nights"), table("Nights, the newest first", _COLUMNS, rows, "nights")] if rows else []


def _row(facts: RecipeFacts, night: Night) -> tuple[Node, ...]:
    cached = sum(stage.cached for stage in night.stages)
    changes = len(night.since_last.changes) if night.since_last is not None else None
    return (
        page_parts.moment(night.time),
        page_parts.outcome(night),
        f"{night.failure.where}: {night.failure.label}" if night.failure else "",
        page_parts.build_name(night.artifact),
        _seconds(night.seconds),
        _seconds(sum(stage.seconds for stage in night.stages)) if night.stages else "–",
        f"{cached} of {len(night.stages)}" if night.stages else "–",
        _seconds(night.boot_seconds),
        size(night.packed_size) if night.packed_size is not None else "–",
        size(night.unpacked_size) if night.unpacked_size is not None else "–",
        "–" if changes is None else str(changes),
        _joined(*_links(facts, night)),
    )


def _seconds(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{count:.1f} s" if count < 600 else f"{count / 60:.0f} min"


def _joined(*parts: Node) -> Element:
    return element("span", *parts)
