"""Rollback: a guest goes back to the root that it had before, alone or with what it wrote since."""

from __future__ import annotations

from pipelines.cli.task import DECIDE, GUEST, RESTART, Context, print_data, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, previous_roots, publication
from pipelines.guest.guest import Guest
from pipelines.guest.previous_roots import Former
from pipelines.libvirt.connect import connect
from pipelines.log import result_lines, say, warn
from pipelines.merge import baselines, describe, preparation
from pipelines.merge import changes as changing
from pipelines.merge import preview as previews
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changes
from pipelines.merge.choices import Choices, parse_choices
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.pool import shares
from pipelines.settings import Settings


def written(name: str, settings: Settings) -> Changes:
    """Return what a guest wrote since it got its root, and what a rollback would leave behind; it may run."""
    with preparation.hold_guest(connect(settings), name) as guest:
        _former(guest)
        return _written(guest, _arrived(guest))


def plan_carry(name: str, choices: Choices, settings: Settings) -> UpgradePlan:
    """Return what carrying that along would come to; nothing of the guest changes, and it may run."""
    with preparation.hold_guest(connect(settings), name) as guest:
        former = _former(guest)
        with preparation.prepare_from_previous(guest, former, _arrived(guest)) as staged:
            return preparation.plan_upgrade(guest, staged, _remembered(guest, choices))


def rollback(name: str, settings: Settings, *, restart: bool = False, carry: Choices | None = None) -> Former:
    """Put a guest back on the root that it had before its last upgrade; return what that was.

    The root that it leaves becomes its former one. With ``carry`` it takes along what it wrote since, into a copy of
    the former root, which stays as it is; raises `VirtrootError`, with nothing changed, where something of that is left
    to decide.
    """
    with preparation.hold_guest(connect(settings), name) as guest:
        again = guest.running
        if again and not restart:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop {name}; or give --restart")
        publication.refuse_kept(guest)
        former = _former(guest)
        if carry is not None:
            move = _carry(guest, former, _remembered(guest, carry), settings, again=again)
        else:
            if again:
                say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
            with publication.up_again(guest, settings.timeout, wanted=again), hold.keep_off(guest):
                try:
                    _say_written(guest)
                except VirtrootError as error:
                    # The more is broken, the more a way back is needed.
                    warn(f"what {name} wrote since it got its root cannot be told, and stays in that: {error.what}")
                preparation.swap_back(guest, former)
            move = None
        back = guests.find(guest.hypervisor, name)
        if again:
            say(f"{name} is up after {publication.start(back, settings.timeout):.1f} s")
        if move is not None:
            preparation.report(name, move)
        try:
            previous_roots.forget(back)
        except VirtrootError as error:
            warn(f"older roots of {name} stay for now: {error.what}")
        return former


def _carry(guest: Guest, former: Former, choices: Choices, settings: Settings, *, again: bool) -> UpgradePlan:
    with preparation.prepare_from_previous(guest, former, _arrived(guest)) as staged:
        preparation.plan_upgrade(guest, staged, choices).refuse_open(f"rollback {guest.name} --carry")
        if again:
            say(f"{guest.name} is off after {guest.stop(settings.timeout):.1f} s")
        with publication.up_again(guest, settings.timeout, wanted=again), hold.keep_off(guest):
            # What it wrote last counts.
            move = preparation.plan_upgrade(guest, staged, choices)
            move.refuse_open(f"rollback {guest.name} --carry")
            preparation.copy_state(guest, staged, move)
            preparation.swap_in(guest, staged, choices.keep, move)
        return move


def _former(guest: Guest) -> Former:
    former = next(reversed(previous_roots.every(guest)), None)
    if former is None:
        raise VirtrootError(
            f"{guest.name} has no former root", "there is one after an ./inv upgrade, until ./inv prune"
        )
    return former


def _arrived(guest: Guest) -> Inventory:
    found = baselines.find_install_inventory(guest)
    if found is None:
        raise VirtrootError(
            f"what {guest.name} wrote since is not known: there is no record of what its root was",
            f"to go back without it: ./inv rollback {guest.name}",
        )
    return found


def _remembered(guest: Guest, choices: Choices) -> Choices:
    return choices.add_kept(preparation.read_kept(guest))


def _written(guest: Guest, base: Inventory) -> Changes:
    manifest = preparation.read_manifest(guest)
    now = baselines.take_inventory(guest.target, guest.root, manifest, base)
    points = shares.points(guest.target, guest.root).values()
    return changing.compare_inventories(base, now, manifest.recipe.distro, points)


def _say_written(guest: Guest) -> None:
    base = baselines.find_install_inventory(guest)
    if base is None:
        return
    found = _written(guest, base)
    packages = sum(len(changes) for _, changes in found.packages)
    counts = (
        (packages, "packages"),
        (len(found.accounts), "accounts"),
        (len(found.etc), "paths of /etc"),
        (len({each.name for each in (*found.files, *found.altered)} | {*found.edited}), "other paths"),
    )
    words = ", ".join(f"{count} {what}" for count, what in counts if count)
    if words:
        say(f"what {guest.name} wrote since it got its root stays in that: {words}; --carry takes it along")


@task(
    name="rollback",
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **GUEST,
        **RESTART,
        "carry": "take along what the guest wrote since, into a copy of the former root",
        **DECIDE,
        "all": "with --carry --preview: show all, however much it is",
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
    """Put a guest back on the root that it had before its last upgrade, alone or with what it wrote since.

    ./inv rollback web --preview
    ./inv rollback web --restart --carry
    """
    settings = settings_of(c)
    choices = parse_choices(take, keep, discard)
    if not carry and (take or keep or discard):
        raise VirtrootError("--take, --keep and --discard are about what is carried along", "give --carry, too")
    if all and not (preview and carry):
        raise VirtrootError("--all is about a preview of what is carried along", "give --preview --carry, too")
    if preview and carry:
        previews.print_preview(plan_carry(name, choices, settings), everything=all, as_json=json)
        return
    if preview:
        found = written(name, settings)
        if json:
            print_data(describe.convert_changes(found))
        else:
            result_lines(describe.format_changes(found, since="it got its root"))
        return
    if json:
        raise VirtrootError("--json without --preview", "--json shows what would be done: give --preview, too")
    former = rollback(name, settings, restart=restart, carry=choices if carry else None)
    say(f"{name} is on {former.made.artifact} again; to the root that it left: ./inv rollback {name}")
