"""Snapshot: the state of a guest's root is kept, listed, put back and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cli.task import GUEST, RESTART, Context, print_data, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, publication, snapshots
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.log import confirm, say, step
from pipelines.settings import Settings
from pipelines.text import table


def take(guest: str, name: str, settings: Settings, *, restart: bool = False) -> tuple[str, str]:
    """Make a snapshot of a guest and return its name and in words how; ``name`` is empty for one that says when.

    With ``restart`` a guest that runs is shut down for it and booted again, whatever comes of it.
    """
    name = snapshots.check_name(name or snapshots.make_name())
    first = snapshots.refuse_uncopyable
    with _off(guest, settings, restart=restart, first=first) as found, step(f"snapshot {name}"):
        return name, snapshots.DESCRIPTIONS[snapshots.take(found, name).how]


def restore(guest: str, name: str, settings: Settings, *, restart: bool = False) -> str:
    """Put a snapshot in place of a guest's root; return the name of the snapshot that the root became."""
    kept = f"replaced-{snapshots.make_name()}"
    snapshots.get(guests.get(connect(settings), guest), name)
    with _off(guest, settings, restart=restart) as found, step(f"restoring {name}"):
        snapshots.restore(found, name, kept)
    return kept


def delete(guest: str, name: str, settings: Settings, asking: Callable[[str], bool] | None) -> None:
    """Delete a snapshot; ``asking`` puts a question to the user, without it nothing is asked."""
    hypervisor = connect(settings)
    about = snapshots.get(guests.get(hypervisor, guest), name)
    if asking and not asking(f"Delete the snapshot {name} of {guest}, taken {about.taken:%Y-%m-%d %H:%M} UTC?"):
        raise VirtrootError("nothing was deleted", "answer yes, or give --yes")
    with hold.hold(hypervisor, guest) as held:
        snapshots.delete(held, name)


@dataclass(frozen=True)
class Row:
    """A snapshot in the list: when it was taken, in UTC, and how its root was made."""

    name: str
    taken: str
    how: str


def listing(guest: str, settings: Settings) -> list[Row]:
    """Return a row for each of a guest's snapshots, the oldest first."""
    found = snapshots.list_snapshots(guests.get(connect(settings), guest))
    return [Row(name, about.taken.isoformat(timespec="seconds"), about.how) for name, about in found.items()]


def as_table(rows: list[Row]) -> str:
    """Return a listing as people read it: NAME TAKEN HOW; empty without snapshots."""
    return table([("NAME", "TAKEN", "HOW"), *((row.name, row.taken, row.how) for row in rows)]) if rows else ""


@contextmanager
def _off(
    name: str, settings: Settings, *, restart: bool, first: Callable[[Guest], object] = lambda _: None
) -> Iterator[Guest]:
    """Hold a guest's lock while it is off; with ``restart`` one that runs is shut down before and booted after.

    ``first`` is called before it is shut down, and raises where that would be for nothing.
    """
    with hold.hold(connect(settings), name) as guest:
        again = restart and guest.running
        if again:
            first(guest)
            say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
        try:
            with hold.keep_off(guest, f"stop it first: ./inv stop {name}; or give --restart"):
                yield guest
        finally:
            if again:
                say(f"{name} is up after {publication.start(guest, settings.timeout):.1f} s")


@task(
    name="snapshot",
    positional=["name", "snapshot"],
    help={**GUEST, "snapshot": "what it is called; the time, where it has no name", **RESTART},
)
def snapshot_task(
    c: Context,
    name: str,
    snapshot: str = "",
    restart: bool = False,
) -> None:
    """Keep the state that a guest's root has now.

    ./inv snapshot web before
    """
    taken, how = take(name, snapshot, settings_of(c), restart=restart)
    say(f"snapshot {taken} of {name}, {how}; back to it: ./inv restore {name} {taken}")


@task(
    name="restore",
    positional=["name", "snapshot"],
    help={**GUEST, "snapshot": "one that ./inv snapshots shows", **RESTART},
)
def restore_task(
    c: Context,
    name: str,
    snapshot: str,
    restart: bool = False,
) -> None:
    """Give a guest's root the state of a snapshot; what that replaces becomes a snapshot itself.

    ./inv restore web before
    """
    kept = restore(name, snapshot, settings_of(c), restart=restart)
    say(f"{name} is as it was at {snapshot}; what that replaced: ./inv snapshots {name} --remove {kept}")


@task(
    name="snapshots",
    help={**GUEST, "remove": "delete this one, for good", "yes": "do not ask", "json": "print JSON"},
)
def snapshots_task(
    c: Context,
    name: str,
    remove: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """List the snapshots of a guest, or delete one of them.

    ./inv snapshots web
    ./inv snapshots web --remove before
    """
    settings = settings_of(c)
    if remove:
        delete(name, remove, settings, asking=None if yes else confirm)
        say(f"{name} has no snapshot {remove} any more")
        return
    found = listing(name, settings)
    print_data(found if json else as_table(found))
