"""Diff: what two builds differ in, packages first and on demand files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.artifact import difference, listing, naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.difference import Change, Difference
from pipelines.artifact.store import Store
from pipelines.settings import Settings
from pipelines.text import size

#: How a change is marked, and what it is called.
_KINDS = {"upgraded": "^", "downgraded": "v", "added": "+", "removed": "-"}


def diff(first: str, second: str, recipe: str, settings: Settings, *, files: bool = False) -> dict[str, Any]:
    """Return what changed from the build named ``first`` to the one named ``second``, as plain data; sizes in bytes.

    With ``files`` that is also the files that came, went, or have another mode, owner, size, time or target.
    """
    store = Store(settings.output_dir)
    before, after = naming.resolve(store, first, recipe), naming.resolve(store, second, recipe)
    then, now = before.manifest, after.manifest
    changes = difference.compare(then.packages, now.packages, now.recipe.distro)
    compared = {"before": _facts(before), "after": _facts(after), "packages": changes.model_dump(mode="json")}
    return {**compared, "files": _files(before, after)} if files else compared


def _files(before: Artifact, after: Artifact) -> list[dict[str, Any]]:
    then, now = listing.entries(before), listing.entries(after)
    return [
        {
            "name": name,
            "before": asdict(then[name]) if name in then else None,
            "after": asdict(now[name]) if name in now else None,
        }
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def as_text(compared: dict[str, Any]) -> str:
    """Return a comparison as people read it: a line for what was built, then one for each package."""
    lines = []
    for key, label in (("id", ""), ("kernel_version", "kernel"), ("packages", "packages"), ("unpacked_size", "size")):
        before, after = compared["before"][key], compared["after"][key]
        if key == "unpacked_size":
            before, after = size(before), size(after)
        lines.append(f"{label:<9}{before}" if before == after else f"{label:<9}{before} -> {after}")
    changes = Difference.model_validate(compared["packages"])
    lines += [] if changes else ["", "the same packages in the same versions"]
    for kind, mark in _KINDS.items():
        found: tuple[Change, ...] = getattr(changes, kind)
        if found:
            lines += ["", f"{kind} ({len(found)})", *(f"  {mark} {_line(change)}" for change in found)]
    if "files" in compared:
        lines += ["", f"files ({len(compared['files'])})", *(f"  {_file(each)}" for each in compared["files"])]
    return "\n".join(lines)


def _file(changed: dict[str, Any]) -> str:
    before, after, name = changed["before"], changed["after"], changed["name"]
    if not (before and after):
        return f"{'-' if before else '+'} {name}  {size((before or after)['size'])}"
    shown = [{**each, "size": size(each["size"])} for each in (before, after)]
    others = (f"{key} {shown[0][key]} -> {shown[1][key]}" for key in before if before[key] != after[key])
    return f"~ {name}  {', '.join(others)}"


def _line(change: Change) -> str:
    return f"{change.name} {' -> '.join(filter(None, (change.before, change.after)))}"


def _facts(artifact: Artifact) -> dict[str, Any]:
    made = artifact.manifest
    return {
        "id": made.id,
        "kernel_version": made.kernel_version,
        "packages": len(made.packages),
        "packed_size": made.rootfs.size,
        "unpacked_size": made.rootfs.unpacked_size,
        "plan": made.plan,
    }
