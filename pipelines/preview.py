"""Preview: what moving a guest to another root comes to, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.guest.changes import Changed
from pipelines.guest.moving import Move
from pipelines.text import one_line, size

#: So many lines are a screen, and so many of each part are shown at least, where not all are asked for.
_SCREEN, _SHOWN = 40, 3


def as_lines(move: Move, *, everything: bool = False) -> Iterator[str]:
    """Yield what becomes of a guest as people read it; without ``everything`` the first lines of each part."""
    groups: dict[str, list[str]] = {
        "to decide": [
            *(f"/{one_line(each.path)}  {each.why}: --take old or --take new" for each in move.conflicts),
            *(f"{_words(each)}: --keep or --discard" for each in move.undecided),
            *(f"package {one_line(each)}, which the new root does not have: --discard" for each in move.lost),
        ]
    }
    for kind, changes in move.packages:
        groups[f"packages {kind}"] = [
            f"{one_line(each.name)} {' -> '.join(filter(None, (one_line(each.before), one_line(each.after))))}"
            for each in changes
        ]
    for verdict, title in (("ours", "the guest's stays"), ("theirs", "the new root's"), ("merged", "lines of both")):
        groups[f"/etc: {title}"] = [
            f"/{one_line(each.path)}  {each.why}" for each in move.etc if each.verdict == verdict
        ]
    groups["accounts whose number changes"] = [one_line(each) for each in move.renumbered]
    groups["kept"] = [f"/{one_line(path)}  {size(move.sizes[path])}" for path in move.kept if path in move.sizes]
    groups["taken away, as in the guest"] = [f"/{one_line(path)}" for path in move.went]
    groups["left behind"] = [_words(each) for each in move.dropped]
    told = {title: found for title, found in groups.items() if found}
    # A heading and a line that says how many more there are, for each.
    room = max(_SHOWN, _SCREEN // max(1, len(told)) - 2)
    for title, found in told.items():
        yield f"{title} ({len(found)})"
        shown = found if everything or title == "to decide" else found[:room]
        yield from (f"  {line}" for line in shown)
        if len(shown) < len(found):
            yield f"  … and {len(found) - len(shown)} more: --all"


def _words(each: Changed) -> str:
    many = "" if each.entries is None else f", {each.entries} entries"
    return f"/{one_line(each.name)}{'' if each.size is None else f'  {size(each.size)}'}{many}"


def as_data(move: Move) -> dict[str, Any]:
    """Return what becomes of a guest as plain data."""
    return {
        "packages": move.packages.model_dump(),
        "etc": [{"path": each.path, "verdict": each.verdict, "why": each.why} for each in move.etc],
        "accounts": move.renumbered,
        "kept": [{"name": path, "size": move.sizes[path]} for path in move.kept if path in move.sizes],
        "dropped": [vars(each) for each in move.dropped],
        "undecided": [vars(each) for each in move.undecided],
        "lost": list(move.lost),
        "went": list(move.went),
    }
