"""Upgrade of many guests, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipelines import upgrade as upgrading
from pipelines.artifact.artifact import Artifact
from pipelines.errors import VirtrootError
from pipelines.guest import formers
from pipelines.guest import guest as guests
from pipelines.guest.moving import Move
from pipelines.libvirt.connect import connect
from pipelines.log import say
from pipelines.settings import Settings
from pipelines.upgrade import WentBack, Wishes


def due(names: Collection[str], wishes: Wishes, settings: Settings) -> Iterator[tuple[str, Artifact]]:
    """Yield the guests that are not on the golden root of their recipe, sorted, each with what it is to be put on.

    ``names`` are those that are asked about, none for all; raises `VirtrootError` for one that is not there. Guests
    that are thrown away by themselves are nobody's to upgrade.
    """
    hypervisor = connect(settings)
    for name in sorted(names):
        guests.find(hypervisor, name)
    for guest in sorted(guests.every(hypervisor), key=lambda each: each.name):
        if guest.transient or (names and guest.name not in names):
            continue
        try:
            artifact = upgrading.artifact(guest.name, "", settings)
        except VirtrootError as error:
            say(f"{guest.name} stays as it is: {error.what}")
            continue
        if artifact.id == guest.artifact:
            say(f"{guest.name} is on {artifact.id} already")
        elif guest.artifact > artifact.id and guest.artifact.partition("/")[0] == artifact.id.partition("/")[0]:
            # Builds are called after their times.
            say(f"{guest.name} stays as it is: {guest.artifact} is newer than {artifact.id}")
        elif artifact.id in formers.refused(guest) and not wishes.again:
            say(f"{guest.name} stays as it is: it did not come up with {artifact.id} before")
        else:
            yield guest.name, artifact


def previews(wishes: Wishes, settings: Settings) -> Iterator[tuple[str, Move]]:
    """Yield what an upgrade would do to each guest that is due; nothing changes.

    Raises `VirtrootError` at the end where that cannot be told of all.
    """
    untold: list[str] = []
    for name, artifact in list(due((), wishes, settings)):
        try:
            move = upgrading.preview(name, artifact, wishes, settings)
        except VirtrootError as error:
            say(f"{name}: {error}")
            untold.append(name)
            continue
        yield name, move
    if untold:
        raise VirtrootError(f"nothing can be told of {', '.join(untold)}", "the reasons are above")


def upgrade_all(names: Collection[str], wishes: Wishes, settings: Settings) -> None:
    """Upgrade each guest that is due; see `due`.

    One that something is left to decide about, or that runs without ``restart``, stays as it is, and the next one's
    turn comes; after one that went back to its former root none is touched any more. Raises `VirtrootError` at the end
    where not all moved.
    """
    waiting = list(due(names, wishes, settings))
    stayed: list[str] = []
    while waiting:
        name, artifact = waiting.pop(0)
        try:
            upgrading.upgrade(name, artifact, wishes, settings)
        except WentBack as error:
            say(f"{name}: {error}")
            left = ", ".join(each for each, _ in waiting)
            raise VirtrootError(
                f"{name} does not come up with {artifact.id}{f'; not touched any more: {left}' if left else ''}",
                f"./inv logs {name} has its console; --again tries it again",
                where=error.where,
            ) from error
        except VirtrootError as error:
            say(f"{name}: {error}")
            stayed.append(name)
            continue
        say(f"{name} is on {artifact.id}; back to the root before: ./inv rollback {name}")
    if stayed:
        raise VirtrootError(
            f"{len(stayed)} guests stay as they were: {', '.join(stayed)}",
            "the reasons are above; ./inv upgrade NAME takes decisions",
        )
