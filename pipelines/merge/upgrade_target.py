"""Which artifact a guest is to be put on, and which guests are due for an upgrade."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import previous_roots
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.log import say
from pipelines.merge import preparation
from pipelines.merge.choices import UpgradeOptions
from pipelines.settings import Settings


def artifact(name: str, to: str, settings: Settings) -> Artifact:
    """Return what a guest is to be put on: what ``to`` names, or else the golden root of its recipe, or the latest."""
    if to and Path(to).is_dir() and "/" in to:
        return Artifact(Path(to).resolve())
    guest = guests.find(connect(settings), name)
    recipe = preparation.manifest(guest).name
    if to:
        return naming.resolve(settings.output_dir, to, recipe)
    golden = golden_root(guest, settings)
    if golden is None:
        latest = naming.resolve(settings.output_dir, "latest", recipe)
        say(f"{recipe} has no golden root: its latest build, {latest.id}, is taken")
        return latest
    if guest.artifact.is_newer(golden.id):
        raise VirtrootError(
            f"{name} is on {guest.artifact}, which is newer than the golden root {golden.id}",
            "to go to that one all the same: --to golden; to the newest build: --to latest",
        )
    return golden


def golden_root(guest: Guest, settings: Settings) -> Artifact | None:
    """Return the golden root of the recipe that a guest was made by; None where it has none."""
    return Store(settings.output_dir).golden(preparation.manifest(guest).name).artifact


def stays(name: str, artifact: Artifact, settings: Settings) -> str:
    """Return in words that a guest is on ``artifact`` already; empty where it is not."""
    if guests.find(connect(settings), name).artifact != artifact.id:
        return ""
    return f"is on {artifact.id} already; --to latest takes the newest build, --to {artifact.id} that one anew"


def due(names: Collection[str], options: UpgradeOptions, settings: Settings) -> Iterator[tuple[str, Artifact | str]]:
    """Yield the guests, sorted, each with the golden root that it is to be put on, or in words why it stays as it is.

    ``names`` are those that are asked about, none for all. Guests that are thrown away by themselves are nobody's to
    upgrade, and those that were made in another output directory are nobody's here.
    """
    hypervisor = connect(settings)
    for guest in sorted(guests.every(hypervisor), key=lambda each: each.name):
        if guest.transient or (names and guest.name not in names):
            continue
        yield guest.name, _becoming(guest, options, settings)


def _becoming(guest: Guest, options: UpgradeOptions, settings: Settings) -> Artifact | str:
    try:
        return _golden_root(guest, options, settings)
    except VirtrootError as error:
        return f"stays as it is: {error.what}"


def _golden_root(guest: Guest, options: UpgradeOptions, settings: Settings) -> Artifact | str:
    artifact = golden_root(guest, settings)
    if artifact is None:
        return "stays as it is: its recipe has no golden root"
    if artifact.id == guest.artifact:
        return f"is on {artifact.id} already"
    if Store(settings.output_dir).find(guest.artifact) is None:
        return f"stays as it is: {guest.artifact} was made elsewhere; to move it: ./inv upgrade {guest.name}"
    if guest.artifact.is_newer(artifact.id):
        return f"stays as it is: {guest.artifact} is newer than {artifact.id}"
    if artifact.id in previous_roots.refused(guest) and not options.again:
        return f"stays as it is: it failed on {artifact.id} before; to try again: --again"
    return artifact
