"""Compare two builds, or a guest with the artifact that it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.artifact import contents, naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.contents import FileChange
from pipelines.artifact.difference import Difference, compare
from pipelines.cli.task import Context, context_of, print_data, settings_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import hold, manifest_copy
from pipelines.log import result_lines, warn
from pipelines.merge import baselines, describe
from pipelines.merge import changes as changing
from pipelines.merge.changes import Changes
from pipelines.pool import shares
from pipelines.settings import Settings
from pipelines.text import one_line, size


@dataclass(frozen=True)
class Pair:
    """Two builds, and the difference of their packages."""

    before: Artifact
    after: Artifact
    packages: Difference


def find_pair(before: str, after: str, recipe: str, settings: Settings) -> Pair:
    """Return the builds named ``before`` and ``after``; see `naming.resolve`.

    ``recipe``, a name or a file, is the recipe of a name without one. Without it, the recipe of the other name is used.
    """
    output = settings.output_dir
    said = next((text.rpartition("/")[0] for text in (before, after) if "/" in text), "")
    one, other = (naming.resolve(output, text, recipe or said) for text in (before, after))
    distro = other.manifest.recipe.distro
    return Pair(one, other, compare(one.manifest.packages, other.manifest.packages, distro))


def as_data(pair: Pair, *, files: bool = False) -> dict[str, Any]:
    """Return the difference of two builds as data, sizes in bytes; with ``files`` compare the tarballs, too."""
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
        data["files"] = [asdict(change) for change in _compare_files(pair)]
    return data


def as_lines(pair: Pair, *, files: bool = False) -> Iterator[str]:
    """Yield the difference of two builds as lines of text; with ``files`` compare the tarballs, too."""
    then, now = pair.before.manifest, pair.after.manifest
    yield f"before    {then.id}"
    yield f"after     {now.id}"
    yield f"kernel    {_format_change(then.kernel_version, now.kernel_version)}"
    yield f"packed    {_format_size_change(then.rootfs.size, now.rootfs.size)}"
    yield f"unpacked  {_format_size_change(then.rootfs.unpacked_size, now.rootfs.unpacked_size)}"
    yield f"packages  {_format_change(str(len(then.packages)), str(len(now.packages)))}"
    if not pair.packages:
        yield "no packages added, removed or changed"
    for kind, changes in pair.packages:
        yield from describe.format_section(kind, changes)
    if files:
        yield from _format_files(_compare_files(pair))


def _compare_files(pair: Pair) -> Iterator[FileChange]:
    return contents.find_changes(pair.before.tarball, pair.after.tarball)


def _format_change(before: str, after: str) -> str:
    return f"{one_line(before)} -> {one_line(after)}" if before != after else f"{one_line(after)}, unchanged"


def _format_size_change(before: int, after: int) -> str:
    sign = "+" if after > before else "-"
    change = f" ({sign}{size(abs(after - before))})" if before != after else ""
    return f"{_format_change(size(before), size(after))}{change}"


def _format_files(changes: Iterator[FileChange]) -> Iterator[str]:
    yield ""
    yield "files"
    counts: Counter[str] = Counter()
    for change in changes:
        counts[change.kind] += 1
        sizes = [size(each) for each in (change.before, change.after) if each is not None]
        shown = sizes[0] if len(set(sizes)) == 1 else " -> ".join(sizes)
        what = f"  ({one_line(change.what)})" if change.what and change.what != "content" else ""
        yield f"  {describe.MARKS[change.kind]} {shown:>20}  {one_line(change.path)}{what}"
    yield f"{counts['added']} added, {counts['removed']} removed, {counts['changed']} changed"


def find_guest_changes(name: str, ctx: CommandContext) -> Changes:
    """Return the changes in the guest ``name`` since it was made; a running guest may change meanwhile."""
    with hold.hold(ctx.hypervisor, name) as guest:
        guest.mount_layers()
        if guest.running:
            warn(f"{name} is running: data that it has not written yet is missing")
        manifest = manifest_copy.read(guest)
        base = baselines.get_baseline(guest, manifest, ctx.store.find(guest.source.artifact))
        now = baselines.take_inventory(guest.target, guest.root, manifest, base)
        points = shares.read_mount_points(guest.target, guest.root).values()
        return changing.compare_inventories(base, now, manifest.recipe.distro, points)


@task(
    name="diff",
    positional=["before", "after"],
    help={
        "before": "a guest; or a build: RECIPE/BUILD, golden, latest, latest~3 (the third before it)",
        "after": "the other build; omit it for a guest",
        "distro": "the recipe of golden and latest, by name",
        "recipe": "the same, by name or file",
        "files": "compare the files in the tarballs, too",
        "json": "print JSON",
    },
)
def diff_task(
    c: Context,
    before: str,
    after: str = "",
    distro: str = "",
    recipe: str = "",
    files: bool = False,
    json: bool = False,
) -> None:
    """Show the changes in a guest, or the difference of two builds: packages, kernel, sizes; files with --files.

    ./inv diff web
    ./inv diff debian/latest~1 debian/latest --files
    """
    if distro and recipe:
        raise VirtrootError("--distro and --recipe exclude each other", "use only one of them")
    if not after:
        if distro or recipe or files:
            raise VirtrootError(
                "--distro, --recipe and --files require two builds", f"add the build to compare {before} with"
            )
        changes = find_guest_changes(before, context_of(c))
        if json:
            print_data(describe.convert_changes(changes))
            return
        result_lines(describe.format_changes(changes))
        return
    pair = find_pair(before, after, distro or recipe, settings_of(c))
    if json:
        print_data(as_data(pair, files=files))
        return
    result_lines(as_lines(pair, files=files))
