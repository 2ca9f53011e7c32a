"""Upgrade: a guest moves to another root and takes along what is its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines import verify
from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.cli.task import DECIDE, GUEST, Context, print_data, settings_of, task
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, previous_roots, publication
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import ignore_output_errors, result, result_lines, say, warn
from pipelines.merge import preparation
from pipelines.merge import preview as previews
from pipelines.merge.upgrade_plan import Choices, Move, decide
from pipelines.pool import clone_methods
from pipelines.settings import Settings


@dataclass(frozen=True)
class UpgradeOptions:
    """What is asked of an upgrade: the user's ``choices``, one of `roots.WAYS`; the rest are options of the task."""

    choices: Choices = field(default_factory=Choices)
    clone: str = "auto"
    restart: bool = False
    again: bool = False


class WentBack(VirtrootError):
    """An upgraded guest did not come up, or failed a check, and is on its former root again; ends as its cause does."""

    def __init__(self, cause: VirtrootError) -> None:
        super().__init__(cause.what, cause.hint, cause.detail, where=cause.where)
        self.exit_code = cause.exit_code


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


def options(choices: Choices, *, clone: str, restart: bool, again: bool) -> UpgradeOptions:
    """Validate the options of the task; raises `VirtrootError`."""
    return UpgradeOptions(choices, clone_methods.checked_way(clone), restart, again)


def plan_upgrade(name: str, artifact: Artifact, options: UpgradeOptions, settings: Settings) -> Move:
    """Return what an upgrade would do; nothing of the guest changes, and it may run."""
    with preparation.held(connect(settings), name) as guest:
        failed = artifact.id in previous_roots.refused(guest)
        if failed:
            warn(f"{name} failed on {artifact.id} before, and is put on it again only with --again")
        _refuse(guest, artifact, replace(options, again=True))
        made_of = Store(settings.output_dir).find(guest.artifact)
        with preparation.of_artifact(guest, artifact, options.clone, made_of) as staged:
            move = preparation.planned(guest, staged, _remembered(guest, artifact, options).choices)
            return replace(move, failed=failed)


def upgrade(name: str, artifact: Artifact, options: UpgradeOptions, settings: Settings) -> Move:
    """Put a guest on ``artifact``, with all that is its own, and keep its former root; return what was done.

    A guest that runs is refused without ``restart``; with it, it is shut down for the move, booted and verified, and
    goes back to its former root where it does not come up or a check fails, which is raised then. Raises
    `VirtrootError`, with nothing changed, where something is left to decide.
    """
    with preparation.held(connect(settings), name) as guest:
        _refuse(guest, artifact, options)
        again = guest.running
        if again and not options.restart:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop {name}; or give --restart")
        publication.refuse_kept(guest)
        options = _remembered(guest, artifact, options)
        made_of = Store(settings.output_dir).find(guest.artifact)
        with preparation.of_artifact(guest, artifact, options.clone, made_of) as staged:
            preparation.planned(guest, staged, options.choices).refuse_open(f"upgrade {name}")
            if again:
                say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
            with publication.up_again(guest, settings.timeout, wanted=again), hold.keep_off(guest):
                # What it wrote last counts.
                move = preparation.planned(guest, staged, options.choices)
                move.refuse_open(f"upgrade {name}")
                preparation.carry(guest, staged, move)
                preparation.put_in_place(guest, staged, options.choices.keep, move)
        upgraded = guests.find(guest.hypervisor, name)
        if again:
            _prove(upgraded, artifact, settings)
        preparation.tell(name, move)
        try:
            # Not before: what goes back has the former roots that it had.
            previous_roots.forget(upgraded)
        except VirtrootError as error:
            warn(f"older roots of {name} stay for now: {error.what}")
        return move


def _remembered(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> UpgradeOptions:
    """Add what the recipe says is kept, and what was kept at earlier upgrades."""
    recorded = [path.strip("/") for path in artifact.manifest.recipe.guest.keep]
    return replace(options, choices=options.choices.remembering((*recorded, *preparation.kept(guest))))


def _refuse(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> None:
    then, now = preparation.manifest(guest).recipe, artifact.manifest.recipe
    if then.distro != now.distro:
        raise VirtrootError(
            f"{guest.name} is {then.distro}, and {artifact.id} is {now.distro}", "install a new guest of that"
        )
    if then.release != now.release:
        warn(f"{guest.name} moves from {then.release} to {now.release}: read what {now.release} says of upgrades first")
    if artifact.id in previous_roots.refused(guest) and not options.again:
        raise VirtrootError(f"{guest.name} failed on {artifact.id} before", "to try it again, give --again")


def _prove(guest: Guest, artifact: Artifact, settings: Settings) -> None:
    """Boot and verify an upgraded guest; where that fails it goes back to its former root, and `WentBack` is raised.

    The caller holds its lock: nobody else works on the guest until it is proven or back.
    """
    name = guest.name
    # A log that nobody reads any more, or that is full, is no reason to leave a guest halfway.
    with ignore_output_errors():
        try:
            say(f"{name} is up after {publication.start(guest, settings.timeout):.1f} s")
            verify.verify_locked(guest, settings, boot=True)
        except KeyboardInterrupt:
            warn(f"{name} is on {artifact.id} unproven; back to its former root: ./inv rollback {name} --restart")
            raise
        except (VirtrootError, OSError) as error:
            why = error if isinstance(error, VirtrootError) else VirtrootError(str(error), "mend that first")
            warn(f"{name} goes back to its former root: {why.what}")
            _back(guest, artifact, why, settings)
            raise WentBack(why) from error


def _back(guest: Guest, artifact: Artifact, why: VirtrootError, settings: Settings) -> None:
    """Put a guest back on its former root, and boot that; the one that it failed on is no former root of it."""
    if guest.running:
        # One that ends by itself meanwhile is off, too.
        with suppress(VirtrootError):
            guest.stop(settings.timeout, force=True)
    former = previous_roots.every(guest)[-1]
    with hold.keep_off(guest):
        preparation.put_back(guest, former)
    # A disk that the guest filled is no reason to stay on a root that does not boot.
    try:
        # What else went wrong, on this machine, says nothing of the artifact.
        if why.where in (Phase.BOOT, Phase.CHECK):
            previous_roots.refuse(guest, artifact.id)
    except VirtrootError as error:
        warn(f"that {guest.name} failed on {artifact.id} could not be noted: {error.what}")
    try:
        previous_roots.set_aside(guest, former)
    except VirtrootError as error:
        warn(f"the root that {guest.name} failed on is one of its former roots, or an earlier one stays: {error.what}")
    back = guests.find(guest.hypervisor, guest.name)
    say(f"{guest.name} is up after {publication.start(back, settings.timeout):.1f} s, as it was")
    if aside := previous_roots.failed(back):
        say(f"the root that it failed on is kept as {aside}, until ./inv prune or the next such one")


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


def plan_all(options: UpgradeOptions, settings: Settings) -> Iterator[tuple[str, Move | str]]:
    """Yield what an upgrade would do to each guest, or why it stays as it is; nothing changes.

    Raises `VirtrootError` at the end where that cannot be told of all.
    """
    untold: list[str] = []
    for name, becoming in list(due((), options, settings)):
        if isinstance(becoming, str):
            yield name, becoming
            continue
        try:
            move = plan_upgrade(name, becoming, options, settings)
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
            upgrade(name, artifact, options, settings)
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


@task(
    name="upgrade",
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **GUEST,
        "to": "RECIPE/BUILD, golden, latest, or an artifact's directory; else the golden root of the guest's recipe",
        **DECIDE,
        "restart": "shut the guest down for it where it runs, boot and verify it, and go back where that fails",
        "again": "take an artifact that this guest failed on before",
        "clone": "how the root is made: auto (the best there is), snapshot, reflink, overlay or copy",
        "all": "every guest that is not on its recipe's golden root; with a name and --preview: show all of it",
    },
)
def upgrade_task(
    c: Context,
    take: list[str],
    keep: list[str],
    discard: list[str],
    name: str = "",
    to: str = "",
    preview: bool = False,
    restart: bool = False,
    again: bool = False,
    clone: str = "auto",
    all: bool = False,  # noqa: A002 - the option
    json: bool = False,
) -> None:
    """Put a guest on a newer golden root, with all that is its own; its former root stays for ./inv rollback.

    ./inv upgrade web --preview
    ./inv upgrade web --restart --keep /var/lib/docker --take old /etc/motd
    """
    settings = settings_of(c)
    wanted = options(decide(take, keep, discard), clone=clone, restart=restart, again=again)
    if not name:
        if not all or to or take or keep or discard:
            raise VirtrootError(
                "upgrade which guest?", "name one; or give --all, and no decisions, which are a guest's own"
            )
        _upgrade_all(wanted, settings, preview=preview, json=json)
        return
    if all and not preview:
        raise VirtrootError(f"--all and {name}", "leave one out; --all shows all of a --preview")
    made = artifact(name, to, settings)
    if preview:
        previews.show(plan_upgrade(name, made, wanted, settings), everything=all, as_json=json)
        return
    asked = to or take or keep or discard or clone != "auto"
    if reason := "" if asked else stays(name, made, settings):
        say(f"{name} {reason}")
        if json:
            print_data({"stays": reason})
        return
    move = upgrade(name, made, wanted, settings)
    if json:
        print_data(previews.as_data(move))
    say(f"{name} is on {made.id}; back to the root before: ./inv rollback {name}")


def _upgrade_all(options: UpgradeOptions, settings: Settings, *, preview: bool, json: bool) -> None:
    if not preview:
        if json:
            raise VirtrootError(
                "--all and --json without --preview", "--json shows what would be done: give --preview, too"
            )
        upgrade_all((), options, settings)
        return
    told: dict[str, object] = {}
    try:
        for name, move in plan_all(options, settings):
            if json:
                told[name] = {"stays": move} if isinstance(move, str) else previews.as_data(move)
                continue
            if isinstance(move, str):
                result_lines([f"{name} {move}"])
                continue
            result(name)
            lines = previews.as_lines(move, more=f"./inv upgrade {name} --preview --all")
            result_lines(f"  {line}" for line in lines)
    finally:
        # What can be told of the others is.
        if json:
            print_data(told)
