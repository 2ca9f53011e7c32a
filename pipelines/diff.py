"""Diff: what two builds differ in, and what a guest has changed since it was made of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from pipelines.artifact import contents, naming
from pipelines.artifact import manifest as manifests
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.contents import FileChange
from pipelines.artifact.difference import Change, Difference, compare
from pipelines.artifact.store import Store
from pipelines.guest import hold
from pipelines.libvirt.connect import connect
from pipelines.log import warn
from pipelines.merge import changes as changing
from pipelines.merge import pristine
from pipelines.merge.changes import Changed, Changes
from pipelines.pool import place, shares
from pipelines.settings import Settings
from pipelines.text import counted, one_line, size

#: Columns of a terminal that nobody made wider.
_COLUMNS = 80

_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True)
class Pair:
    """Two builds, and what their packages differ in."""

    before: Artifact
    after: Artifact
    packages: Difference


def find(before: str, after: str, recipe: str, settings: Settings) -> Pair:
    """Return the builds that are named so; see `naming.resolve`.

    ``recipe`` is a name or a file. Without it, a name that says no recipe is of the one that the other name says.
    """
    output = settings.output_dir
    said = next((text.rpartition("/")[0] for text in (before, after) if "/" in text), "")
    one, other = (naming.resolve(output, text, recipe or said) for text in (before, after))
    distro = other.manifest.recipe.distro
    return Pair(one, other, compare(one.manifest.packages, other.manifest.packages, distro))


def as_data(pair: Pair, *, files: bool = False) -> dict[str, Any]:
    """Return what two builds differ in as plain data, sizes in bytes; with ``files`` reads both tarballs."""
    then, now = pair.before.manifest, pair.after.manifest
    data: dict[str, Any] = {
        "before": then.id,
        "after": now.id,
        "kernel_version": {"before": then.kernel_version, "after": now.kernel_version},
        "packed_size": {"before": then.rootfs.size, "after": now.rootfs.size},
        "unpacked_size": {"before": then.rootfs.unpacked_size, "after": now.rootfs.unpacked_size},
        "packages": pair.packages.model_dump(),
    }
    if files:
        data["files"] = [asdict(change) for change in _files(pair)]
    return data


def as_lines(pair: Pair, *, files: bool = False) -> Iterator[str]:
    """Yield what two builds differ in as people read it; with ``files`` reads both tarballs as it goes."""
    then, now = pair.before.manifest, pair.after.manifest
    yield f"before    {then.id}"
    yield f"after     {now.id}"
    yield f"kernel    {_turned(then.kernel_version, now.kernel_version)}"
    yield f"packed    {_resized(then.rootfs.size, now.rootfs.size)}"
    yield f"unpacked  {_resized(then.rootfs.unpacked_size, now.rootfs.unpacked_size)}"
    yield f"packages  {_turned(str(len(then.packages)), str(len(now.packages)))}"
    if not pair.packages:
        yield "no package came, went or changed its version"
    for kind, changes in pair.packages:
        yield from _section(kind, changes)
    if files:
        yield from _file_lines(_files(pair))


def _files(pair: Pair) -> Iterator[FileChange]:
    return contents.differences(pair.before.tarball, pair.after.tarball)


def _turned(before: str, after: str) -> str:
    return f"{one_line(before)} -> {one_line(after)}" if before != after else f"{one_line(after)}, as before"


def _resized(before: int, after: int) -> str:
    sign = "+" if after > before else "-"
    change = f" ({sign}{size(abs(after - before))})" if before != after else ""
    return f"{_turned(size(before), size(after))}{change}"


def _section(kind: str, changes: tuple[Change, ...]) -> Iterator[str]:
    if not changes:
        return
    yield ""
    yield f"{kind} ({len(changes)})"
    # A few long names must not push all versions out to the right.
    names = [one_line(change.name) for change in changes]
    width = min(max(map(len, names)), 32)
    for name, change in zip(names, changes, strict=True):
        versions = _versions(change)
        line = f"  {name:<{width}}  {versions}"
        if len(line) <= _COLUMNS:
            yield line
        else:
            yield f"  {name}"
            yield from _wrapped(versions)


def _versions(change: Change) -> str:
    return " -> ".join(filter(None, (one_line(change.before), one_line(change.after))))


def _wrapped(versions: str) -> Iterator[str]:
    if len(versions) + 6 <= _COLUMNS:
        yield f"      {versions}"
    else:
        before, arrow, after = versions.partition(" -> ")
        yield f"      {before}{arrow.rstrip(' ')}"
        if after:
            yield f"      {after}"


def _file_lines(changes: Iterator[FileChange]) -> Iterator[str]:
    yield ""
    yield "files"
    counts: Counter[str] = Counter()
    for change in changes:
        counts[change.kind] += 1
        sizes = [size(each) for each in (change.before, change.after) if each is not None]
        shown = sizes[0] if len(set(sizes)) == 1 else " -> ".join(sizes)
        what = f"  ({one_line(change.what)})" if change.what and change.what != "content" else ""
        yield f"  {_MARKS[change.kind]} {shown:>20}  {one_line(change.path)}{what}"
    yield f"{counts['added']} added, {counts['removed']} removed, {counts['changed']} changed"


def of_guest(name: str, settings: Settings) -> Changes:
    """Return what the guest ``name`` has changed since it was made; one that runs may be changing meanwhile."""
    with hold.hold(connect(settings), name) as guest:
        guest.assemble()
        if guest.running:
            warn(f"{name} is running: what it has not written yet is not seen")
        content = guest.target.run(["cat", place.manifest(guest.boot)]).stdout
        manifest = manifests.parse(content, f"the manifest of {name}")
        base = pristine.of(guest, manifest, Store(settings.output_dir).find(guest.artifact))
        now = pristine.now(guest.target, guest.root, manifest, base)
        points = shares.points(guest.target, guest.root).values()
        return changing.changes(base, now, manifest.recipe.distro, points)


def changes_as_data(changes: Changes) -> dict[str, Any]:
    """Return what a guest has changed as plain data, sizes in bytes."""
    return {
        "packages": changes.packages.model_dump(),
        **{part: [asdict(each) for each in getattr(changes, part)] for part in ("accounts", "etc", "files", "altered")},
        "edited": list(changes.edited),
    }


def changes_as_lines(changes: Changes, *, since: str = "it was made") -> Iterator[str]:
    """Yield what a guest has changed ``since`` then as people read it."""
    if not changes:
        yield f"nothing has changed since {since}"
    # Sections begin with an empty line.
    yield from islice(_sections(changes), 1, None)


def _sections(changes: Changes) -> Iterator[str]:
    for kind, packages in changes.packages:
        yield from _section(f"{kind} packages", packages)
    for title, found in (
        ("accounts", changes.accounts),
        ("/etc", changes.etc),
        ("files that no package has", changes.files),
    ):
        yield from _changed_section(title, found)
    edited = (Changed("changed", path, "content") for path in changes.edited)
    yield from _changed_section(
        "not as packages brought it", tuple(sorted((*edited, *changes.altered), key=lambda each: each.name))
    )


def _changed_section(title: str, found: tuple[Changed, ...]) -> Iterator[str]:
    if not found:
        return
    yield ""
    yield f"{title} ({len(found)})"
    for each in found:
        entries = "" if each.entries is None else f"{counted(each.entries, 'entry', 'entries')} in it"
        words = ", ".join(filter(None, (one_line(each.what), entries, "" if each.size is None else size(each.size))))
        slash = "" if title == "accounts" else "/"
        yield f"  {_MARKS[each.kind]} {slash}{one_line(each.name)}{f'  ({words})' if words else ''}"
