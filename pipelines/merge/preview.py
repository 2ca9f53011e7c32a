"""Preview: what an upgrade would do to a guest, as text for people and as data for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.log import result, result_lines
from pipelines.merge.changes import Changed
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.text import counted, one_line, size

#: Lines of a screen, and the lines of each part that are shown in any case.
_SCREEN, _SHOWN = 40, 3

_DECIDE = "to decide"


def format_preview(plan: UpgradePlan, *, more: str = "--all", everything: bool = False) -> Iterator[str]:
    """Yield what an upgrade would do as lines of text.

    Without ``everything`` only the first lines of each part are shown; ``more`` is the option or command that shows
    all.
    """
    yield f"{one_line(plan.before)} -> {one_line(plan.after)}{', which failed before' if plan.failed else ''}"
    groups: dict[str, list[str]] = {
        _DECIDE: [
            *(f"/{one_line(each.path)}  {each.why}: --take old or --take new" for each in plan.conflicts),
            *(f"{_format_change(each)}: --keep or --discard" for each in plan.undecided),
            *(f"package {one_line(each)}, which the new root does not have: --discard" for each in plan.lost),
        ]
    }
    for kind, changes in plan.packages:
        groups[f"packages {kind}"] = [
            f"{one_line(each.name)} {' -> '.join(filter(None, (one_line(each.before), one_line(each.after))))}"
            for each in changes
        ]
    for verdict, title in (("ours", "the guest's stays"), ("theirs", "the new root's"), ("merged", "lines of both")):
        groups[f"/etc: {title}"] = [
            f"/{one_line(each.path)}  {each.why}" for each in plan.etc if each.verdict == verdict
        ]
    groups["accounts whose number changes"] = [one_line(each) for each in plan.renumbered]
    groups["kept"] = [f"/{one_line(path)}  {size(plan.sizes[path])}" for path in plan.kept if path in plan.sizes]
    groups["empty directories, made where the new root has none"] = [f"/{one_line(path)}" for path in plan.empty]
    groups["deleted, as in the guest"] = [f"/{one_line(path)}" for path in plan.went]
    groups["of the new root, replaced by what is kept"] = [f"/{one_line(path)}" for path in plan.replaced]
    groups["as in the package again"] = [
        f"/{one_line(each.name)}  {'deleted in the guest' if each.kind == 'removed' else one_line(each.what)}"
        for each in plan.reverted
    ]
    groups["selections of dpkg, as in the guest"] = [
        f"{one_line(name)} {wanted}" for name, wanted in plan.selections.items()
    ]
    groups["on hold in the guest, with another version now"] = [one_line(each) for each in plan.held]
    groups["trees of other systems, whose numbers stay"] = [
        f"/{one_line(path)}  {one_line(why)}" for path, why in sorted(plan.systems.items())
    ]
    groups["immutable or append-only, unlike the copy"] = [f"/{one_line(path)}" for path in plan.flagged]
    groups["left behind"] = [_format_change(each) for each in plan.dropped]
    groups["to run in the guest afterwards"] = [f"{one_line(command)}  {why}" for command, why in plan.to_run]
    shown = {title: found for title, found in groups.items() if found}
    limits = {title: len(found) for title, found in shown.items()} if everything else _divide_screen(shown)
    for heading, found in shown.items():
        yield f"{heading} ({len(found)})"
        yield from (f"  {line}" for line in found[: limits[heading]])
        if limits[heading] < len(found):
            yield f"  … and {len(found) - limits[heading]} more: {more}"


def _divide_screen(parts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how many lines of each part are shown, so that all parts fit on a screen.

    Decisions get up to half of the screen. Of the other parts short ones are shown whole, and long ones share the rest.
    """
    # Each part needs a heading and a line that says how many more there are. The first line names the artifacts.
    left = _SCREEN - 2 * len(parts) - 1
    limits = {title: min(len(found), max(_SHOWN, left // 2)) for title, found in parts.items() if title == _DECIDE}
    left -= sum(limits.values())
    rest = sorted((len(found), title) for title, found in parts.items() if title != _DECIDE)
    for index, (length, title) in enumerate(rest):
        limits[title] = min(length, max(_SHOWN, left // (len(rest) - index)))
        left -= limits[title]
    return limits


def _format_change(each: Changed) -> str:
    words = (
        "" if each.size is None else size(each.size),
        "" if each.entries is None else counted(each.entries, "entry", "entries"),
        # The number of entries says so already.
        "" if each.what == "directory" else one_line(each.what),
    )
    details = ", ".join(filter(None, words))
    return f"/{one_line(each.name)}{f'  {details}' if details else ''}"


def convert_preview(plan: UpgradePlan) -> dict[str, Any]:
    """Return what an upgrade would do as plain data."""
    return {
        "before": plan.before,
        "after": plan.after,
        "failed": plan.failed,
        "packages": plan.packages.model_dump(),
        "etc": [{"path": each.path, "verdict": each.verdict, "why": each.why} for each in plan.etc],
        "accounts": plan.renumbered,
        "kept": [{"name": path, "size": plan.sizes[path]} for path in plan.kept if path in plan.sizes],
        "dropped": [vars(each) for each in plan.dropped],
        "undecided": [vars(each) for each in plan.undecided],
        "lost": list(plan.lost),
        "empty": list(plan.empty),
        "went": list(plan.went),
        "replaced": list(plan.replaced),
        "held": list(plan.held),
        "selections": dict(plan.selections),
        "systems": sorted(plan.systems),
        "flagged": list(plan.flagged),
        "reverted": [vars(each) for each in plan.reverted],
        "to_run": [command for command, _ in plan.to_run],
    }


def print_preview(plan: UpgradePlan, *, everything: bool, as_json: bool) -> None:
    """Print what an upgrade would do, as text or as JSON."""
    if as_json:
        result(json.dumps(convert_preview(plan), indent=2))
    else:
        result_lines(format_preview(plan, everything=everything))
