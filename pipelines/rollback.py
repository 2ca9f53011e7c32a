"""Roll a guest back to its previous root, with or without what it wrote since."""

from __future__ import annotations

from pipelines.cli.task import DECIDE, GUEST, RESTART, Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, manifest_copy, previous_roots, publication
from pipelines.guest.guest import Guest
from pipelines.guest.previous_roots import PreviousRoot
from pipelines.log import result_lines, say, warn
from pipelines.merge import baselines, describe, preparation
from pipelines.merge import changes as changing
from pipelines.merge import preview as previews
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changes
from pipelines.merge.choices import Choices, parse_choices
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.pool import shares


def list_changes(name: str, ctx: CommandContext) -> Changes:
    """Return what a guest wrote since it got its root, and a rollback would leave behind; the guest may be running."""
    with preparation.hold_guest(ctx.hypervisor, name) as guest:
        _get_previous_root(guest)
        return _compute_changes(guest, _get_install_inventory(guest))


def plan_rollback(name: str, choices: Choices, ctx: CommandContext) -> UpgradePlan:
    """Return what a rollback with --carry would do; nothing of the guest changes, and it may be running."""
    with preparation.hold_guest(ctx.hypervisor, name) as guest:
        previous = _get_previous_root(guest)
        with preparation.prepare_from_previous(guest, previous, _get_install_inventory(guest)) as prepared:
            return preparation.plan_upgrade(guest, prepared, preparation.add_kept(guest, choices))


def rollback(name: str, ctx: CommandContext, *, restart: bool = False, carry: Choices | None = None) -> PreviousRoot:
    """Put a guest back on the root that it had before its last upgrade; return that root.

    The current root becomes the previous one. With --carry, what the guest wrote since is copied to a copy
    of the previous root, which stays unchanged itself. Raises `VirtrootError`, with nothing changed, if any of it needs
    a decision.
    """
    with preparation.hold_guest(ctx.hypervisor, name) as guest:
        was_running = guest.running
        hold.check_may_stop(guest, restart=restart)
        previous = _get_previous_root(guest)
        plan = None
        if carry is not None:
            choices = preparation.add_kept(guest, carry)
            with preparation.prepare_from_previous(guest, previous, _get_install_inventory(guest)) as prepared:
                plan = preparation.move(guest, prepared, choices, f"rollback {name} --carry", ctx.settings.timeout)
        else:
            with hold.shut_down(guest, ctx.settings.timeout):
                try:
                    _report_changes(guest)
                except VirtrootError as error:
                    # A broken root must not prevent the rollback: that is when it is needed most.
                    warn(f"cannot determine what {name} wrote since it got its root; it stays there: {error.what}")
                preparation.swap_back(guest, previous)
        back = guests.get(guest.hypervisor, name)
        if was_running:
            say(f"{name} is up after {publication.start(back, ctx.settings.timeout):.1f} s")
        if plan is not None:
            preparation.report(name, plan)
        try:
            previous_roots.delete_old(back)
        except VirtrootError as error:
            warn(f"cannot delete older previous roots of {name}: {error.what}")
        return previous


def _get_previous_root(guest: Guest) -> PreviousRoot:
    previous = next(reversed(previous_roots.list_previous(guest)), None)
    if previous is None:
        raise VirtrootError(
            f"{guest.name} has no previous root",
            "run ./inv upgrade first; ./inv prune deletes previous roots",
        )
    return previous


def _get_install_inventory(guest: Guest) -> Inventory:
    found = baselines.find_install_inventory(guest)
    if found is None:
        raise VirtrootError(
            f"cannot determine what {guest.name} wrote: there is no inventory of its root at install",
            f"run ./inv rollback {guest.name} without it",
        )
    return found


def _compute_changes(guest: Guest, base: Inventory) -> Changes:
    manifest = manifest_copy.read(guest)
    now = baselines.take_inventory(guest.target, guest.root, manifest, base)
    points = shares.read_mount_points(guest.target, guest.root).values()
    return changing.compare_inventories(base, now, manifest.recipe.distro, points)


def _report_changes(guest: Guest) -> None:
    base = baselines.find_install_inventory(guest)
    if base is None:
        return
    found = _compute_changes(guest, base)
    packages = sum(len(changes) for _, changes in found.packages)
    counts = (
        (packages, "packages"),
        (len(found.accounts), "accounts"),
        (len(found.etc), "paths of /etc"),
        (len({each.name for each in (*found.files, *found.altered)} | {*found.edited}), "other paths"),
    )
    words = ", ".join(f"{count} {what}" for count, what in counts if count)
    if words:
        say(f"what {guest.name} wrote since it got its root stays there: {words}; use --carry to copy it over")


@task(
    name="rollback",
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **GUEST,
        **RESTART,
        "carry": "copy what the guest wrote since to a copy of the previous root",
        **DECIDE,
        "all": "with --carry --preview: show everything, not only the beginning of long lists",
    },
)
def rollback_task(
    c: Context,
    name: str,
    take: list[str],
    keep: list[str],
    discard: list[str],
    carry: bool = False,
    restart: bool = False,
    preview: bool = False,
    all: bool = False,  # noqa: A002 - the option
    json: bool = False,
) -> None:
    """Put a guest back on the root that it had before its last upgrade, with or without what it wrote since.

    ./inv rollback web --preview
    ./inv rollback web --restart --carry
    """
    ctx = context_of(c)
    choices = parse_choices(take, keep, discard)
    if not carry and (take or keep or discard):
        raise VirtrootError("--take, --keep and --discard need --carry", "add --carry")
    if all and not (preview and carry):
        raise VirtrootError("--all needs --preview and --carry", "add --preview --carry")
    if preview and carry:
        previews.print_preview(plan_rollback(name, choices, ctx), everything=all, as_json=json)
        return
    if preview:
        found = list_changes(name, ctx)
        if json:
            print_data(describe.convert_changes(found))
        else:
            result_lines(describe.format_changes(found, since="it got its root"))
        return
    if json:
        raise VirtrootError("--json needs --preview", "add --preview")
    previous = rollback(name, ctx, restart=restart, carry=choices if carry else None)
    say(f"{name} is on {previous.source.artifact} again; to go back to the root that it left: ./inv rollback {name}")
