"""Remove guests."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.cli.task import GUESTS, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, publication, several, snapshots
from pipelines.log import confirm, say
from pipelines.pool import place, pool
from pipelines.pool.place import Place


def remove(name: str, ctx: CommandContext, ask: Callable[[str], bool] | None) -> None:
    """Undefine a guest that is shut off, and delete its root, its boot directory and its console log.

    ``ask`` asks the user the question it is called with; None skips the question. Everything that prevents the removal
    is checked before the question, and again after it, since the answer may take hours.
    """
    hypervisor = ctx.hypervisor
    if not hypervisor.is_defined(name) and _clear_leftovers(place.check_name(name), ctx):
        return
    guest = guests.get(hypervisor, name)
    publication.refuse_busy(guest)
    taken = snapshots.list_snapshots(guest)
    others = f", and its {len(taken)} snapshots" if taken else ""
    if ask and not ask(f"Delete the guest {name} and everything in {guest.root}{others}?"):
        raise VirtrootError(f"the guest {name} was not removed", "answer yes, or use --yes")
    with hold.hold(hypervisor, name) as found:
        if found.uuid != guest.uuid:
            raise VirtrootError(f"{name} is a different guest now", f"check it: ./inv info {name}")
        publication.withdraw(found)


def _clear_leftovers(name: str, ctx: CommandContext) -> bool:
    """Delete what a killed removal or install left of a guest without a domain; return whether there was anything."""
    hypervisor = ctx.hypervisor
    directory = pool.find_directory(hypervisor, ctx.settings)
    if directory is None or not publication.has_leftovers(hypervisor, paths := Place(directory, name)):
        return False
    with hold.new(hypervisor, paths):
        publication.clear(hypervisor, paths)
    return True


@task(name="remove", positional=["name"], iterable=["name"], help={**GUESTS, "yes": "do not ask"})
def remove_task(
    c: Context,
    name: list[str],
    yes: bool = False,
) -> None:
    """Delete guests and their roots.

    ./inv remove web
    """
    ctx = context_of(c)

    def do(each: str) -> None:
        remove(each, ctx, ask=None if yes else confirm)
        say(f"removed {each}")

    several.for_each(several.list_names(name, ctx, all_of_them=False), do)
