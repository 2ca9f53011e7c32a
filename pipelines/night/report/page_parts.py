"""Parts that both kinds of page have: times, states and links."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from pipelines.artifact.build_id import BuildId
from pipelines.artifact.history import Night
from pipelines.night.report.html import Element, Node, element
from pipelines.text import age

#: What a night came to, and a sign that tells it without colours.
_OUTCOMES = {"promoted": "▲", "unchanged": "=", "kept": "○", "failed": "✕"}
_STATES = {"good": "✓", "failed": "✕", "unknown": "?"}


def moment(time: str) -> Node:
    """Return a time of ISO 8601 as it is read, in UTC; a dash for none."""
    if not time:
        return "–"
    return element("time", f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M}", datetime=time)


def ago(time: str, now: datetime) -> str:
    """Write how long before ``now`` a time was."""
    return age(int((now - datetime.fromisoformat(time)).total_seconds())) if time else "–"


def state(name: str) -> Element:
    """Return a recipe's state as a badge."""
    return element("span", element("span", _STATES[name], aria_hidden="true"), f" {name}", class_=f"badge {name}")


def outcome(night: Night) -> Element:
    """Return what a night came to as a badge."""
    kind = "failed" if not night.good else "good"
    sign = element("span", _OUTCOMES[night.outcome], aria_hidden="true")
    return element("span", sign, f" {night.outcome}", class_=f"badge {kind}")


def link(text: str, *parts: str) -> Element:
    """Return a link to a path below the page's own directory: nothing in it is taken for a scheme, host or query."""
    return element("a", text, href="/".join(quote(os.fsencode(part), safe="") for part in parts))


def file_link(text: str, path: Path, home: Path) -> Element | None:
    """Return a link to a file below ``home``, the page's directory; None where it is not there."""
    return link(text, *path.relative_to(home).parts) if path.is_file() else None


def build_name(artifact: str) -> str:
    """Return the part of an artifact's id that tells builds of a recipe apart."""
    return BuildId(artifact).build or artifact or "–"


def facts(*pairs: tuple[str, Node]) -> Element:
    """Return a list of names and what they have."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))


def written(now: datetime) -> Element:
    """Return the page's last line."""
    return element("footer", element("p", "Written by virtroot, ", moment(now.isoformat()), " UTC. All times are UTC."))
