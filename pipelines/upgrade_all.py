"""Upgrade of many guests, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipelines import upgrade as upgrading
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest import formers
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, warn
from pipelines.merge.moving import Move
from pipelines.settings import Settings
from pipelines.upgrade import UpgradeOptions, WentBack


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
    artifact = upgrading.golden_root(guest, settings)
    if artifact is None:
        return "stays as it is: its recipe has no golden root"
    if artifact.id == guest.artifact:
        return f"is on {artifact.id} already"
    if Store(settings.output_dir).find(guest.artifact) is None:
        return f"stays as it is: {guest.artifact} was made elsewhere; to move it: ./inv upgrade {guest.name}"
    if guest.artifact.is_newer(artifact.id):
        return f"stays as it is: {guest.artifact} is newer than {artifact.id}"
    if artifact.id in formers.refused(guest) and not options.again:
        return f"stays as it is: it failed on {artifact.id} before; to try again: --again"
    return artifact


def previews(options: UpgradeOptions, settings: Settings) -> Iterator[tuple[str, Move | str]]:
    """Yield what an upgrade would do to each guest, or why it stays as it is; nothing changes.

    Raises `VirtrootError` at the end where that cannot be told of all.
    """
    untold: list[str] = []
    for name, becoming in list(due((), options, settings)):
        if isinstance(becoming, str):
            yield name, becoming
            continue
        try:
            move = upgrading.preview(name, becoming, options, settings)
        except VirtrootError as error:
            say(f"{name}: {error}", lines=True)
            untold.append(name)
            yield name, f"nothing can be told of it: {error.what}"
            continue
        yield name, move
    if untold:
        raise VirtrootError(f"nothing can be told of {', '.join(untold)}", "the reasons are above")


def upgrade_all(names: Collection[str], options: UpgradeOptions, settings: Settings) -> None:
    """Upgrade each guest that is due; see `due`.

    One that something is left to decide about, or that runs without ``restart``, stays as it is, and the next one's
    turn comes; after one that went back to its former root, or that could not, none is touched any more. Raises
    `VirtrootError` at the end where not all moved or not all ``names`` are there, and `CheckFailed` where a check
    failed.
    """
    hypervisor = connect(settings)
    stayed = _missing(names, hypervisor)
    waiting: list[tuple[str, Artifact]] = []
    for name, becoming in due(names, options, settings):
        if isinstance(becoming, str):
            say(f"{name} {becoming}")
        else:
            waiting.append((name, becoming))
    while waiting:
        name, artifact = waiting.pop(0)
        before = _state(hypervisor, name)
        try:
            upgrading.upgrade(name, artifact, options, settings)
        except VirtrootError as error:
            say(f"{name}: {error}", lines=True)
            if isinstance(error, WentBack) or _state(hypervisor, name) != before:
                raise _stopped(name, artifact, error, [each for each, _ in waiting]) from error
            stayed.append(name)
            continue
        say(f"{name} is on {artifact.id}; back to the root before: ./inv rollback {name}")
    if stayed:
        raise VirtrootError(
            f"{'1 guest stays as it was' if len(stayed) == 1 else f'{len(stayed)} guests stay as they were'}: "
            f"{', '.join(stayed)}",
            "the reasons are above; ./inv upgrade NAME takes decisions",
        )


def _missing(names: Collection[str], hypervisor: Hypervisor) -> list[str]:
    """Return those of ``names`` that no guest has, and tell of them: they keep no other from its upgrade."""
    there = {guest.name for guest in guests.every(hypervisor)}
    missing = sorted({*names} - there)
    for name in missing:
        warn(f"there is no guest {name}: take it out of the setting upgrade")
    return missing


def _state(hypervisor: Hypervisor, name: str) -> tuple[str, bool] | None:
    """Return what a guest is on, and whether it runs; None where that cannot be said."""
    try:
        guest = guests.find(hypervisor, name)
        return guest.artifact, guest.running
    except VirtrootError:
        return None


def _stopped(name: str, artifact: Artifact, error: VirtrootError, waiting: list[str]) -> VirtrootError:
    """Return what says that the upgrades ended with this guest; it ends as its ``error`` does."""
    done = "went back to its former root" if isinstance(error, WentBack) else "is not as it was"
    left = f"; not touched any more: {', '.join(waiting)}" if waiting else ""
    what = f"{name} was put on {artifact.id}, and {done}: {error.what}{left}"
    hint = f"./inv logs {name} has its console; --again tries it again"
    if error.exit_code == CheckFailed.exit_code:
        return CheckFailed(what, hint, where=error.where)
    return VirtrootError(what, hint, where=error.where)
