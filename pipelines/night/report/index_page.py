"""The page of all recipes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipelines.night.report import axis, page_parts
from pipelines.night.report.facts import RecipeFacts
from pipelines.night.report.html import Element, Node, element, make_document, make_table
from pipelines.text import counted

# A wide table scrolls. The last column is the least important: it may be out of sight.
_COLUMNS = ("Recipe", "State", "Since", "Last run", "When", "The last two weeks", "Golden root's age", "Golden root")

#: Days in the row of marks.
_DAYS = 14


@dataclass(frozen=True)
class Row:
    """The row of a recipe in the table."""

    name: str
    state: str
    cells: tuple[Node, ...]


def make_page(rows: Sequence[Row], now: datetime) -> str:
    """Return the page of all recipes at the time ``now``."""
    counts = Counter(row.state for row in rows)
    summary = ", ".join(f"{counts[state]} {state}" for state in ("failed", "good", "unknown") if counts[state])
    recipes = counted(len(rows), "recipe", "recipes")
    # Failed recipes come first.
    cells = [row.cells for row in sorted(rows, key=lambda row: (row.state != "failed", row.name))]
    body = element(
        "main",
        element("h1", "Golden roots"),
        element("p", f"{recipes}: {summary}." if rows else "No recipe has been built here yet."),
        make_table("Recipes, failed ones first", _COLUMNS, cells, "recipes") if rows else None,
    )
    return make_document(f"Golden roots: {summary or 'none'} – virtroot", body, page_parts.make_footer(now))


def make_row(facts: RecipeFacts, now: datetime) -> Row:
    """Return the row of a recipe."""
    last, golden = facts.last, facts.golden
    came = facts.trouble
    if last:
        came = f"{last.failure.where}: {last.failure.label}" if last.failure else last.outcome
    cells = (
        page_parts.make_link(facts.name, facts.name, "index.html"),
        page_parts.make_state_badge(facts.state),
        page_parts.make_time(facts.since),
        came or "none yet",
        page_parts.make_time(last.time if last else ""),
        _draw_marks(facts),
        page_parts.format_age(facts.golden_time, now),
        golden.directory.name if golden else "none",
    )
    return Row(facts.name, facts.state, cells)


def _draw_marks(facts: RecipeFacts) -> Element | None:
    """Draw a mark for each of the last days with a run, by its outcome, and for each day with a missing run."""
    if not facts.recent:
        return None
    calendar = axis.make_calendar([night.began for night in facts.recent])
    start = max(calendar.days - _DAYS, 0)
    drawn, counts = [], Counter[str]()
    for day in range(start, calendar.days):
        came = [night for night, slot in zip(facts.recent, calendar.slots, strict=True) if int(slot.start) == day]
        kind = ("good" if came[-1].good else "failed") if came else "missing" if day in calendar.missing else ""
        if kind:
            counts[kind] += 1
            drawn.append(_draw_mark(kind, (day - start) * 13))
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    width = 13 * _DAYS
    return element("svg", *drawn, viewBox=f"0 0 {width} 14", class_="marks", role="img", aria_label=f"days: {summary}")


def _draw_mark(kind: str, x: int) -> Element:
    if kind == "failed":
        return element("path", d=f"M{x + 2} 3l8 8m0 -8l-8 8", class_="failed")
    if kind == "missing":
        return element("rect", x=x + 2, y=3, width=8, height=8, class_="missing")
    return element("rect", x=x + 1, y=2, width=10, height=10, rx=2, class_="good")
