"""Preview: what moving a guest to another root comes to, as people and programs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.log import result, result_lines
from pipelines.merge.changes import Changed
from pipelines.merge.upgrade_plan import Move
from pipelines.text import counted, one_line, size

#: So many lines are a screen, and so many of each part are shown at least, where not all are asked for.
_SCREEN, _SHOWN = 40, 3

_DECIDE = "to decide"


def as_lines(move: Move, *, more: str = "--all", everything: bool = False) -> Iterator[str]:
    """Yield what becomes of a guest as people read it.

    Without ``everything`` it is the first lines of each part; ``more`` shows the others.
    """
    yield f"{one_line(move.before)} -> {one_line(move.after)}{', which failed before' if move.failed else ''}"
    groups: dict[str, list[str]] = {
        _DECIDE: [
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
    groups["made where the new root has none"] = [f"/{one_line(path)}" for path in move.empty]
    groups["taken away, as in the guest"] = [f"/{one_line(path)}" for path in move.went]
    groups["of the new root, and replaced by what is kept"] = [f"/{one_line(path)}" for path in move.replaced]
    groups["as packages bring it again"] = [
        f"/{one_line(each.name)}  {'went in the guest' if each.kind == 'removed' else one_line(each.what)}"
        for each in move.reverted
    ]
    groups["told to dpkg, as in the guest"] = [f"{one_line(name)} {wanted}" for name, wanted in move.selections.items()]
    groups["on hold in the guest, and another version"] = [one_line(each) for each in move.held]
    groups["of another system, whose numbers stay"] = [
        f"/{one_line(path)}  {one_line(why)}" for path, why in sorted(move.systems.items())
    ]
    groups["immutable or append-only, which the copy is not"] = [f"/{one_line(path)}" for path in move.flagged]
    groups["left behind"] = [_words(each) for each in move.dropped]
    groups["to run in the guest afterwards"] = [f"{one_line(command)}  {why}" for command, why in move.to_run]
    told = {title: found for title, found in groups.items() if found}
    rooms = {title: len(found) for title, found in told.items()} if everything else _rooms(told)
    for heading, found in told.items():
        yield f"{heading} ({len(found)})"
        yield from (f"  {line}" for line in found[: rooms[heading]])
        if rooms[heading] < len(found):
            yield f"  … and {len(found) - rooms[heading]} more: {more}"


def _rooms(told: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how many lines of each part are shown, so that all is a screen long: small ones whole, the rest evenly.

    What is to decide has half of the screen, if it needs that.
    """
    # A heading and a line that says how many more there are, for each; and what moves to what.
    left = _SCREEN - 2 * len(told) - 1
    rooms = {title: min(len(found), max(_SHOWN, left // 2)) for title, found in told.items() if title == _DECIDE}
    left -= sum(rooms.values())
    rest = sorted((len(found), title) for title, found in told.items() if title != _DECIDE)
    for index, (length, title) in enumerate(rest):
        rooms[title] = min(length, max(_SHOWN, left // (len(rest) - index)))
        left -= rooms[title]
    return rooms


def _words(each: Changed) -> str:
    words = (
        "" if each.size is None else size(each.size),
        "" if each.entries is None else counted(each.entries, "entry", "entries"),
        # Its entries say that.
        "" if each.what == "directory" else one_line(each.what),
    )
    told = ", ".join(filter(None, words))
    return f"/{one_line(each.name)}{f'  {told}' if told else ''}"


def as_data(move: Move) -> dict[str, Any]:
    """Return what becomes of a guest as plain data."""
    return {
        "before": move.before,
        "after": move.after,
        "failed": move.failed,
        "packages": move.packages.model_dump(),
        "etc": [{"path": each.path, "verdict": each.verdict, "why": each.why} for each in move.etc],
        "accounts": move.renumbered,
        "kept": [{"name": path, "size": move.sizes[path]} for path in move.kept if path in move.sizes],
        "dropped": [vars(each) for each in move.dropped],
        "undecided": [vars(each) for each in move.undecided],
        "lost": list(move.lost),
        "empty": list(move.empty),
        "went": list(move.went),
        "replaced": list(move.replaced),
        "held": list(move.held),
        "selections": dict(move.selections),
        "systems": sorted(move.systems),
        "flagged": list(move.flagged),
        "reverted": [vars(each) for each in move.reverted],
        "to_run": [command for command, _ in move.to_run],
    }


def show(move: Move, *, everything: bool, as_json: bool) -> None:
    """Print what would become of a guest, for people or as JSON."""
    if as_json:
        result(json.dumps(as_data(move), indent=2))
    else:
        result_lines(as_lines(move, everything=everything))
