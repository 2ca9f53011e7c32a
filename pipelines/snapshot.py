"""Take, list, restore and delete snapshots of a guest's root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cli.task import GUEST, RESTART, Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, publication, snapshots
from pipelines.guest.guest import Guest
from pipelines.log import confirm, say, step
from pipelines.text import table


def take(guest: str, name: str, ctx: CommandContext, *, restart: bool = False) -> tuple[str, str]:
    """Take a snapshot of a guest and return its name and a description; an empty ``name`` becomes the current time.

    ``restart`` shuts a running guest down for it and boots it again, even after an error.
    """
    name = snapshots.check_name(name or snapshots.make_name())
    first = snapshots.refuse_uncopyable
    with _hold_off(guest, ctx, restart=restart, check=first) as found, step(f"snapshot {name}"):
        return name, snapshots.DESCRIPTIONS[snapshots.take(found, name).how]


def restore(guest: str, name: str, ctx: CommandContext, *, restart: bool = False) -> str:
    """Restore a snapshot of a guest's root; return the name of the snapshot that the replaced root became."""
    kept = f"replaced-{snapshots.make_name()}"
    snapshots.get(guests.get(ctx.hypervisor, guest), name)
    with _hold_off(guest, ctx, restart=restart) as found, step(f"restoring {name}"):
        snapshots.restore(found, name, kept)
    return kept


def delete(guest: str, name: str, ctx: CommandContext, ask: Callable[[str], bool] | None) -> None:
    """Delete a snapshot; ``ask`` asks the user the question it is called with, None skips the question."""
    hypervisor = ctx.hypervisor
    about = snapshots.get(guests.get(hypervisor, guest), name)
    if ask and not ask(f"Delete the snapshot {name} of {guest}, taken {about.taken:%Y-%m-%d %H:%M} UTC?"):
        raise VirtrootError("nothing was deleted", "answer yes, or use --yes")
    with hold.hold(hypervisor, guest) as held:
        snapshots.delete(held, name)


@dataclass(frozen=True)
class Row:
    """A snapshot in the list: when it was taken, in UTC, and its clone method."""

    name: str
    taken: str
    how: str


def list_rows(guest: str, ctx: CommandContext) -> list[Row]:
    """Return a row for each of a guest's snapshots, oldest first."""
    found = snapshots.list_snapshots(guests.get(ctx.hypervisor, guest))
    return [Row(name, about.taken.isoformat(timespec="seconds"), about.how) for name, about in found.items()]


def format_table(rows: list[Row]) -> str:
    """Return a list as a table for people: NAME TAKEN HOW; empty if there are no snapshots."""
    return table([("NAME", "TAKEN", "HOW"), *((row.name, row.taken, row.how) for row in rows)]) if rows else ""


@contextmanager
def _hold_off(
    name: str, ctx: CommandContext, *, restart: bool, check: Callable[[Guest], object] = lambda _: None
) -> Iterator[Guest]:
    """Hold a guest's lock while it is off; ``restart`` shuts a running one down before and boots it after.

    ``check`` is called before the shutdown and raises if the shutdown would be in vain.
    """
    with hold.hold(ctx.hypervisor, name) as guest:
        again = restart and guest.running
        if again:
            check(guest)
            say(f"{name} is off after {guest.stop(ctx.settings.timeout):.1f} s")
        try:
            with hold.keep_off(guest, f"run ./inv stop {name} first, or use --restart"):
                yield guest
        finally:
            if again:
                say(f"{name} is up after {publication.start(guest, ctx.settings.timeout):.1f} s")


@task(
    name="snapshot",
    positional=["name", "snapshot"],
    help={**GUEST, "snapshot": "the name of the snapshot; by default the current time", **RESTART},
)
def snapshot_task(
    c: Context,
    name: str,
    snapshot: str = "",
    restart: bool = False,
) -> None:
    """Take a snapshot of a guest's root.

    ./inv snapshot web before
    """
    taken, how = take(name, snapshot, context_of(c), restart=restart)
    say(f"took the snapshot {taken} of {name}, {how}; restore it: ./inv restore {name} {taken}")


@task(
    name="restore",
    positional=["name", "snapshot"],
    help={**GUEST, "snapshot": "a name that ./inv snapshots lists", **RESTART},
)
def restore_task(
    c: Context,
    name: str,
    snapshot: str,
    restart: bool = False,
) -> None:
    """Restore a snapshot of a guest's root; the replaced root becomes a snapshot itself.

    ./inv restore web before
    """
    kept = restore(name, snapshot, context_of(c), restart=restart)
    say(f"restored {snapshot} of {name}; to delete the replaced root: ./inv snapshots {name} --remove {kept}")


@task(
    name="snapshots",
    help={**GUEST, "remove": "delete this snapshot", "yes": "do not ask", "json": "print JSON"},
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
    ctx = context_of(c)
    if remove:
        delete(name, remove, ctx, ask=None if yes else confirm)
        say(f"deleted the snapshot {remove} of {name}")
        return
    found = list_rows(name, ctx)
    print_data(found if json else format_table(found))
