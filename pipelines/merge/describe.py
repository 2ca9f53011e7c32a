"""What a guest changed, as data for programs and as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from pipelines.artifact.difference import Change
from pipelines.merge.changes import Changed, Changes
from pipelines.text import counted, one_line, size

#: Columns of a terminal that has its usual width.
_COLUMNS = 80

#: What a line begins with, by the kind of change.
MARKS = {"added": "+", "removed": "-", "changed": "~"}


def convert_changes(changes: Changes) -> dict[str, Any]:
    """Return what a guest changed as plain data, sizes in bytes."""
    return {
        "packages": changes.packages.model_dump(),
        **{part: [asdict(each) for each in getattr(changes, part)] for part in ("accounts", "etc", "files", "altered")},
        "edited": list(changes.edited),
    }


def format_changes(changes: Changes, *, since: str = "it was made") -> Iterator[str]:
    """Yield what a guest changed as lines of text; ``since`` says since when."""
    if not changes:
        yield f"nothing has changed since {since}"
    # Sections begin with an empty line; the first one is not shown.
    yield from islice(_format_sections(changes), 1, None)


def _format_sections(changes: Changes) -> Iterator[str]:
    for kind, packages in changes.packages:
        yield from format_section(f"{kind} packages", packages)
    for title, found in (
        ("accounts", changes.accounts),
        ("/etc", changes.etc),
        ("files that no package has", changes.files),
    ):
        yield from _format_changed(title, found)
    edited = (Changed("changed", path, "content") for path in changes.edited)
    yield from _format_changed(
        "not as packages brought it", tuple(sorted((*edited, *changes.altered), key=lambda each: each.name))
    )


def _format_changed(title: str, found: tuple[Changed, ...]) -> Iterator[str]:
    if not found:
        return
    yield ""
    yield f"{title} ({len(found)})"
    for each in found:
        entries = "" if each.entries is None else f"{counted(each.entries, 'entry', 'entries')} in it"
        words = ", ".join(filter(None, (one_line(each.what), entries, "" if each.size is None else size(each.size))))
        slash = "" if title == "accounts" else "/"
        yield f"  {MARKS[each.kind]} {slash}{one_line(each.name)}{f'  ({words})' if words else ''}"


def format_section(kind: str, changes: tuple[Change, ...]) -> Iterator[str]:
    """Yield a heading and a line for each package; nothing without packages."""
    if not changes:
        return
    yield ""
    yield f"{kind} ({len(changes)})"
    # Otherwise a few long names would move all versions out of sight.
    names = [one_line(change.name) for change in changes]
    width = min(max(map(len, names)), 32)
    for name, change in zip(names, changes, strict=True):
        versions = _format_versions(change)
        line = f"  {name:<{width}}  {versions}"
        if len(line) <= _COLUMNS:
            yield line
        else:
            yield f"  {name}"
            yield from _wrap_versions(versions)


def _format_versions(change: Change) -> str:
    return " -> ".join(filter(None, (one_line(change.before), one_line(change.after))))


def _wrap_versions(versions: str) -> Iterator[str]:
    if len(versions) + 6 <= _COLUMNS:
        yield f"      {versions}"
    else:
        before, arrow, after = versions.partition(" -> ")
        yield f"      {before}{arrow.rstrip(' ')}"
        if after:
            yield f"      {after}"
