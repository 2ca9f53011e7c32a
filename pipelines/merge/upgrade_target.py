"""Which artifact a guest is to be put on, and which guests are due for an upgrade."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import manifest_copy, previous_roots
from pipelines.guest.guest import Guest
from pipelines.log import say
from pipelines.merge.choices import UpgradeOptions


def resolve_artifact(name: str, to: str, ctx: CommandContext) -> Artifact:
    """Return the artifact that ``to`` names for a guest.

    If ``to`` is empty, that is the golden root of its recipe, or else the latest build. Raises `VirtrootError` where
    the guest is on a newer one.
    """
    if to and Path(to).is_dir() and "/" in to:
        return Artifact(Path(to).resolve())
    guest = guests.get(ctx.hypervisor, name)
    recipe = manifest_copy.read(guest).name
    if to:
        return naming.resolve(ctx.settings.output_dir, to, recipe)
    golden = find_golden_root(guest, ctx)
    if golden is None:
        latest = naming.resolve(ctx.settings.output_dir, "latest", recipe)
        say(f"{recipe} has no golden root: taking its latest build, {latest.id}")
        return latest
    if guest.source.artifact.is_newer(golden.id):
        raise VirtrootError(
            f"{name} is on {guest.source.artifact}, which is newer than the golden root {golden.id}",
            "give --to golden for that one, or --to latest for the newest build",
        )
    return golden


def find_golden_root(guest: Guest, ctx: CommandContext) -> Artifact | None:
    """Return the golden root of the recipe that a guest was made from; None where it has none."""
    return ctx.store.golden(manifest_copy.read(guest).name).artifact


def describe_stay(name: str, artifact: Artifact, ctx: CommandContext) -> str:
    """Return in words that a guest is on ``artifact`` already; empty where it is not."""
    if guests.get(ctx.hypervisor, name).source.artifact != artifact.id:
        return ""
    return f"is on {artifact.id} already; --to latest takes the newest build, --to {artifact.id} takes that one again"


def list_due(
    names: Collection[str], options: UpgradeOptions, ctx: CommandContext
) -> Iterator[tuple[str, Artifact | str]]:
    """Yield each guest with the golden root that it is to be put on, or with the reason why it stays as it is.

    Guests are sorted by name. ``names`` are those that are asked about, none for all. Transient guests are left out:
    what made them throws them away. A guest that was made in another output directory stays as it is.
    """
    hypervisor = ctx.hypervisor
    for guest in sorted(guests.list_guests(hypervisor), key=lambda each: each.name):
        if guest.transient or (names and guest.name not in names):
            continue
        yield guest.name, _find_target(guest, options, ctx)


def _find_target(guest: Guest, options: UpgradeOptions, ctx: CommandContext) -> Artifact | str:
    """Return the golden root for a guest, or the reason why it stays as it is, an error included."""
    try:
        return _find_newer_golden_root(guest, options, ctx)
    except VirtrootError as error:
        return f"stays as it is: {error.what}"


def _find_newer_golden_root(guest: Guest, options: UpgradeOptions, ctx: CommandContext) -> Artifact | str:
    """Return the golden root for a guest, or the reason why it stays as it is."""
    artifact = find_golden_root(guest, ctx)
    if artifact is None:
        return "stays as it is: its recipe has no golden root"
    if artifact.id == guest.source.artifact:
        return f"is on {artifact.id} already"
    if ctx.store.find(guest.source.artifact) is None:
        return f"stays as it is: {guest.source.artifact} was made elsewhere; to move it: ./inv upgrade {guest.name}"
    if guest.source.artifact.is_newer(artifact.id):
        return f"stays as it is: {guest.source.artifact} is newer than {artifact.id}"
    if artifact.id in previous_roots.list_refused(guest) and not options.again:
        return f"stays as it is: it failed on {artifact.id} before; to try again: --again"
    return artifact
