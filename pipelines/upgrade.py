"""Upgrade: a guest moves to another root and takes along what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipelines import verify
from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import Phase, VirtrootError
from pipelines.guest import formers, hold, publication
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.log import say, warn, whoever_hears
from pipelines.merge import staging
from pipelines.merge.moving import Choices, Move
from pipelines.pool import roots
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
    recipe = staging.manifest(guest).name
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
    return Store(settings.output_dir).golden(staging.manifest(guest).name).artifact


def stays(name: str, artifact: Artifact, settings: Settings) -> str:
    """Return in words that a guest is on ``artifact`` already; empty where it is not."""
    if guests.find(connect(settings), name).artifact != artifact.id:
        return ""
    return f"is on {artifact.id} already; --to latest takes the newest build, --to {artifact.id} that one anew"


def choices(take: Sequence[str], keep: Sequence[str], discard: Sequence[str]) -> Choices:
    """Validate what the user decided on the command line; raises `VirtrootError`."""
    taken: dict[str, Literal["old", "new"]] = {}
    for each in take:
        which, _, path = each.partition(":")
        if which not in ("old", "new") or not path.startswith("/etc/"):
            raise VirtrootError(f"--take {each}", "write --take old /etc/PATH or --take new /etc/PATH")
        taken[path.strip("/")] = "old" if which == "old" else "new"
    for each in keep:
        if not each.startswith("/"):
            raise VirtrootError(f"--keep {each}: that is no path in the guest", "begin it with a slash")
    return Choices(tuple(path.strip("/") for path in keep), tuple(path.strip("/") for path in discard), taken)


def options(choices: Choices, *, clone: str, restart: bool, again: bool) -> UpgradeOptions:
    """Validate the options of the task; raises `VirtrootError`."""
    return UpgradeOptions(choices, roots.checked_way(clone), restart, again)


def preview(name: str, artifact: Artifact, options: UpgradeOptions, settings: Settings) -> Move:
    """Return what an upgrade would do; nothing of the guest changes, and it may run."""
    with staging.held(connect(settings), name) as guest:
        failed = artifact.id in formers.refused(guest)
        if failed:
            warn(f"{name} failed on {artifact.id} before, and is put on it again only with --again")
        _refuse(guest, artifact, replace(options, again=True))
        made_of = Store(settings.output_dir).find(guest.artifact)
        with staging.of_artifact(guest, artifact, options.clone, made_of) as staged:
            move = staging.planned(guest, staged, _remembered(guest, artifact, options).choices)
            return replace(move, failed=failed)


def upgrade(name: str, artifact: Artifact, options: UpgradeOptions, settings: Settings) -> Move:
    """Put a guest on ``artifact``, with all that is its own, and keep its former root; return what was done.

    A guest that runs is refused without ``restart``; with it, it is shut down for the move, booted and verified, and
    goes back to its former root where it does not come up or a check fails, which is raised then. Raises
    `VirtrootError`, with nothing changed, where something is left to decide.
    """
    with staging.held(connect(settings), name) as guest:
        _refuse(guest, artifact, options)
        again = guest.running
        if again and not options.restart:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop {name}; or give --restart")
        publication.refuse_kept(guest)
        options = _remembered(guest, artifact, options)
        made_of = Store(settings.output_dir).find(guest.artifact)
        with staging.of_artifact(guest, artifact, options.clone, made_of) as staged:
            staging.planned(guest, staged, options.choices).refuse_open(f"upgrade {name}")
            if again:
                say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
            with publication.up_again(guest, settings.timeout, wanted=again), hold.keep_off(guest):
                # What it wrote last counts.
                move = staging.planned(guest, staged, options.choices)
                move.refuse_open(f"upgrade {name}")
                staging.carry(guest, staged, move)
                staging.put_in_place(guest, staged, options.choices.keep, move)
        upgraded = guests.find(guest.hypervisor, name)
        if again:
            _prove(upgraded, artifact, settings)
        staging.tell(name, move)
        try:
            # Not before: what goes back has the former roots that it had.
            formers.forget(upgraded)
        except VirtrootError as error:
            warn(f"older roots of {name} stay for now: {error.what}")
        return move


def _remembered(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> UpgradeOptions:
    """Add what the recipe says is kept, and what was kept at earlier upgrades."""
    recorded = [path.strip("/") for path in artifact.manifest.recipe.guest.keep]
    return replace(options, choices=options.choices.remembering((*recorded, *staging.kept(guest))))


def _refuse(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> None:
    then, now = staging.manifest(guest).recipe, artifact.manifest.recipe
    if then.distro != now.distro:
        raise VirtrootError(
            f"{guest.name} is {then.distro}, and {artifact.id} is {now.distro}", "install a new guest of that"
        )
    if then.release != now.release:
        warn(f"{guest.name} moves from {then.release} to {now.release}: read what {now.release} says of upgrades first")
    if artifact.id in formers.refused(guest) and not options.again:
        raise VirtrootError(f"{guest.name} failed on {artifact.id} before", "to try it again, give --again")


def _prove(guest: Guest, artifact: Artifact, settings: Settings) -> None:
    """Boot and verify an upgraded guest; where that fails it goes back to its former root, and `WentBack` is raised.

    The caller holds its lock: nobody else works on the guest until it is proven or back.
    """
    name = guest.name
    # A log that nobody reads any more, or that is full, is no reason to leave a guest halfway.
    with whoever_hears():
        try:
            say(f"{name} is up after {publication.start(guest, settings.timeout):.1f} s")
            verify.verify_held(guest, settings, boot=True)
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
    former = formers.every(guest)[-1]
    with hold.keep_off(guest):
        staging.put_back(guest, former)
    # A disk that the guest filled is no reason to stay on a root that does not boot.
    try:
        # What else went wrong, on this machine, says nothing of the artifact.
        if why.where in (Phase.BOOT, Phase.CHECK):
            formers.refuse(guest, artifact.id)
    except VirtrootError as error:
        warn(f"that {guest.name} failed on {artifact.id} could not be noted: {error.what}")
    try:
        formers.set_aside(guest, former)
    except VirtrootError as error:
        warn(f"the root that {guest.name} failed on is one of its former roots, or an earlier one stays: {error.what}")
    back = guests.find(guest.hypervisor, guest.name)
    say(f"{guest.name} is up after {publication.start(back, settings.timeout):.1f} s, as it was")
    if aside := formers.failed(back):
        say(f"the root that it failed on is kept as {aside}, until ./inv prune or the next such one")
