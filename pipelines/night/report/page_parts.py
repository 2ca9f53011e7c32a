"""Parts that both kinds of pages use: times, states and links."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from pipelines.artifact.build_id import BuildId
from pipelines.artifact.history import RunRecord
from pipelines.night.report.html import Element, Node, element
from pipelines.text import age

#: The symbol of each outcome of a run, which distinguishes them without colours.
_OUTCOMES = {"promoted": "▲", "unchanged": "=", "kept": "○", "failed": "✕"}
_STATES = {"good": "✓", "failed": "✕", "unknown": "?"}


def make_time(time: str) -> Node:
    """Return a time in ISO 8601 in a readable form, in UTC; a dash if it is empty."""
    if not time:
        return "–"
    return element("time", f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M}", datetime=time)


def format_age(time: str, now: datetime) -> str:
    """Return the time between ``time`` and ``now`` as text."""
    return age(int((now - datetime.fromisoformat(time)).total_seconds())) if time else "–"


def make_state_badge(name: str) -> Element:
    """Return a recipe's state as a badge."""
    return element("span", element("span", _STATES[name], aria_hidden="true"), f" {name}", class_=f"badge {name}")


def make_outcome_badge(record: RunRecord) -> Element:
    """Return the outcome of a run as a badge."""
    kind = "failed" if not record.good else "good"
    sign = element("span", _OUTCOMES[record.outcome], aria_hidden="true")
    return element("span", sign, f" {record.outcome}", class_=f"badge {kind}")


def make_link(text: str, *parts: str) -> Element:
    """Return a link to a path below the page's own directory, with quoted parts, so that none is a scheme or a host."""
    return element("a", text, href="/".join(quote(os.fsencode(part), safe="") for part in parts))


def find_file_link(text: str, path: Path, home: Path) -> Element | None:
    """Return a link to a file below ``home``, the page's directory, or None if the file is missing."""
    return make_link(text, *path.relative_to(home).parts) if path.is_file() else None


def get_build_name(artifact: str) -> str:
    """Return the part of an artifact's id that distinguishes builds of a recipe."""
    return BuildId(artifact).build or artifact or "–"


def make_list(*pairs: tuple[str, Node]) -> Element:
    """Return a list of names and values."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))


def make_footer(now: datetime) -> Element:
    """Return the footer of the page."""
    return element(
        "footer", element("p", "Written by virtroot, ", make_time(now.isoformat()), " UTC. All times are UTC.")
    )
