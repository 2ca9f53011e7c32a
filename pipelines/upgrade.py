"""Upgrade: a guest gets another root and keeps its own state."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

from pipelines import verify
from pipelines.artifact.artifact import Artifact
from pipelines.cli.task import DECIDE, GUEST, Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, manifest_copy, previous_roots, publication
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import ignore_output_errors, result, result_lines, say, warn
from pipelines.merge import preparation, upgrade_target
from pipelines.merge import preview as previews
from pipelines.merge.choices import UpgradeOptions, parse_choices, parse_options
from pipelines.merge.upgrade_plan import UpgradePlan


class WentBack(VirtrootError):
    """Raised when an upgraded guest did not come up or failed a check, and is on its previous root again.

    The exit code is that of the cause.
    """

    def __init__(self, cause: VirtrootError) -> None:
        super().__init__(cause.what, cause.hint, cause.detail, where=cause.where)
        self.exit_code = cause.exit_code


def plan_upgrade(name: str, artifact: Artifact, options: UpgradeOptions, ctx: CommandContext) -> UpgradePlan:
    """Return what an upgrade would do. Nothing of the guest changes, and it may run."""
    with preparation.hold_guest(ctx.hypervisor, name) as guest:
        failed = artifact.id in previous_roots.list_refused(guest)
        if failed:
            warn(f"{name} failed on {artifact.id} before; an upgrade to it needs --again")
        _refuse_artifact(guest, artifact, replace(options, again=True))
        built_from = ctx.store.find(guest.source.artifact)
        with preparation.prepare_from_artifact(guest, artifact, options.clone, built_from) as prepared:
            plan = preparation.plan_upgrade(guest, prepared, _add_kept(guest, artifact, options).choices)
            return replace(plan, failed=failed)


def upgrade(name: str, artifact: Artifact, options: UpgradeOptions, ctx: CommandContext) -> UpgradePlan:
    """Put a guest on ``artifact`` and keep its state and its previous root; return the plan that was followed.

    A guest that runs is refused without ``restart``. With it, the guest is shut down for the swap, booted and verified.
    Where it does not come up or fails a check, it goes back to its previous root, and `WentBack` is raised. Raises
    `VirtrootError`, with nothing changed, where the user has something left to decide.
    """
    with preparation.hold_guest(ctx.hypervisor, name) as guest:
        _refuse_artifact(guest, artifact, options)
        was_running = guest.running
        hold.check_may_stop(guest, restart=options.restart)
        options = _add_kept(guest, artifact, options)
        built_from = ctx.store.find(guest.source.artifact)
        with preparation.prepare_from_artifact(guest, artifact, options.clone, built_from) as prepared:
            plan = preparation.move(guest, prepared, options.choices, f"upgrade {name}", ctx.settings.timeout)
        upgraded = guests.get(guest.hypervisor, name)
        if was_running:
            _prove_guest(upgraded, artifact, ctx)
        preparation.report(name, plan)
        try:
            # Not earlier: a guest that goes back has to keep the previous roots that it had.
            previous_roots.delete_old(upgraded)
        except VirtrootError as error:
            warn(f"older roots of {name} stay for now: {error.what}")
        return plan


def _add_kept(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> UpgradeOptions:
    """Return the options with the paths that the recipe and earlier upgrades keep."""
    recorded = [path.strip("/") for path in artifact.manifest.recipe.guest.keep]
    return replace(options, choices=preparation.add_kept(guest, options.choices, recorded))


def _refuse_artifact(guest: Guest, artifact: Artifact, options: UpgradeOptions) -> None:
    """Raise `VirtrootError` where a guest cannot or should not be put on ``artifact``."""
    then, now = manifest_copy.read(guest).recipe, artifact.manifest.recipe
    if then.distro != now.distro:
        raise VirtrootError(
            f"{guest.name} is {then.distro}, and {artifact.id} is {now.distro}",
            f"install a new guest from {artifact.id}",
        )
    if then.release != now.release:
        warn(f"{guest.name} goes from {then.release} to {now.release}: read the release notes of {now.release} first")
    if artifact.id in previous_roots.list_refused(guest) and not options.again:
        raise VirtrootError(f"{guest.name} failed on {artifact.id} before", "give --again to try it again")


def _prove_guest(guest: Guest, artifact: Artifact, ctx: CommandContext) -> None:
    """Boot and verify an upgraded guest; where that fails, put it back on its previous root and raise `WentBack`.

    The caller holds the guest's lock, so that no other task works on the guest meanwhile.
    """
    name = guest.name
    # A log that is full, or that has lost its reader, must not leave a guest between two roots.
    with ignore_output_errors():
        try:
            say(f"{name} is up after {publication.start(guest, ctx.settings.timeout):.1f} s")
            verify.verify_locked(guest, ctx, boot=True)
        except KeyboardInterrupt:
            warn(
                f"{name} is on {artifact.id}, not verified; back to its previous root: ./inv rollback {name} --restart"
            )
            raise
        except (VirtrootError, OSError) as error:
            why = error if isinstance(error, VirtrootError) else VirtrootError(str(error), "fix that first")
            warn(f"{name} goes back to its previous root: {why.what}")
            _go_back(guest, artifact, why, ctx)
            raise WentBack(why) from error


def _go_back(guest: Guest, artifact: Artifact, why: VirtrootError, ctx: CommandContext) -> None:
    """Put a guest back on its previous root and boot that.

    The root on which it failed does not become a previous root: a rollback must not lead to it.
    """
    if guest.running:
        # A guest that shuts down by itself meanwhile is off, too.
        with suppress(VirtrootError):
            guest.stop(ctx.settings.timeout, force=True)
    previous = previous_roots.list_previous(guest)[-1]
    with hold.keep_off(guest):
        left = preparation.swap_back(guest, previous)
    # The guest may have filled the disk. It has to go back all the same, so errors from here on are warnings.
    try:
        # Errors of other phases are those of this machine and say nothing about the artifact.
        if why.where in (Phase.BOOT, Phase.CHECK):
            previous_roots.record_refusal(guest, artifact.id)
    except VirtrootError as error:
        warn(f"cannot record that {guest.name} failed on {artifact.id}: {error.what}")
    try:
        previous_roots.keep_failed(guest, left)
    except VirtrootError as error:
        warn(
            f"cannot set aside the root that {guest.name} failed on, or delete an earlier one: {error.what}; "
            f"./inv rollback {guest.name} may lead to it"
        )
    back = guests.get(guest.hypervisor, guest.name)
    say(f"{guest.name} is up after {publication.start(back, ctx.settings.timeout):.1f} s, as it was")
    if aside := previous_roots.find_failed(back):
        say(f"the root that it failed on is kept as {aside}, until ./inv prune or the next such one")


def plan_all(options: UpgradeOptions, ctx: CommandContext) -> Iterator[tuple[str, UpgradePlan | str]]:
    """Yield what an upgrade would do to each guest, or why it stays as it is; nothing changes.

    Raises `VirtrootError` at the end where there is no plan for some of them.
    """
    without_plan: list[str] = []
    for name, target in list(upgrade_target.list_due((), options, ctx)):
        if isinstance(target, str):
            yield name, target
            continue
        try:
            plan = plan_upgrade(name, target, options, ctx)
        except VirtrootError as error:
            say(f"{name}: {error}", lines=True)
            without_plan.append(name)
            yield name, f"no plan can be made: {error.what}"
            continue
        yield name, plan
    if without_plan:
        raise VirtrootError(f"no plan can be made for {', '.join(without_plan)}", "read the reasons above")


def upgrade_all(names: Collection[str], options: UpgradeOptions, ctx: CommandContext) -> None:
    """Upgrade each guest that is due; see `upgrade_target.list_due`.

    A guest stays as it is where the user has something left to decide, or where it runs and ``restart`` was not given.
    The next one follows. After a guest that went back to its previous root, or could not, no other is upgraded. Raises
    `VirtrootError` at the end where a guest stayed as it is, or one of ``names`` is not there, and `CheckFailed` where
    a check failed.
    """
    hypervisor = ctx.hypervisor
    stayed = _report_missing(names, hypervisor)
    waiting: list[tuple[str, Artifact]] = []
    for name, target in upgrade_target.list_due(names, options, ctx):
        if isinstance(target, str):
            say(f"{name} {target}")
        else:
            waiting.append((name, target))
    while waiting:
        name, artifact = waiting.pop(0)
        before = _find_state(hypervisor, name)
        try:
            upgrade(name, artifact, options, ctx)
        except VirtrootError as error:
            say(f"{name}: {error}", lines=True)
            if isinstance(error, WentBack) or _find_state(hypervisor, name) != before:
                raise _describe_stop(name, artifact, error, [each for each, _ in waiting]) from error
            stayed.append(name)
            continue
        say(f"{name} is on {artifact.id}; back to the root before: ./inv rollback {name}")
    if stayed:
        raise VirtrootError(
            f"{'1 guest stays as it was' if len(stayed) == 1 else f'{len(stayed)} guests stay as they were'}: "
            f"{', '.join(stayed)}",
            "see the reasons above; run ./inv upgrade NAME with decisions",
        )


def _report_missing(names: Collection[str], hypervisor: Hypervisor) -> list[str]:
    """Return those of ``names`` that no guest has, with a warning for each; the others are upgraded all the same."""
    there = {guest.name for guest in guests.list_guests(hypervisor)}
    missing = sorted({*names} - there)
    for name in missing:
        warn(f"there is no guest {name}: delete it from the setting upgrade")
    return missing


def _find_state(hypervisor: Hypervisor, name: str) -> tuple[str, bool] | None:
    """Return on which artifact a guest is, and whether it runs; None where that is not known."""
    try:
        guest = guests.get(hypervisor, name)
        return guest.source.artifact, guest.running
    except VirtrootError:
        return None


def _describe_stop(name: str, artifact: Artifact, error: VirtrootError, waiting: list[str]) -> VirtrootError:
    """Return the error that ends the upgrades at this guest, with the exit code of ``error``."""
    done = "went back to its previous root" if isinstance(error, WentBack) else "is not as it was"
    left = f"; not upgraded: {', '.join(waiting)}" if waiting else ""
    what = f"{name} was put on {artifact.id}, and {done}: {error.what}{left}"
    hint = f"run ./inv logs {name} to see its console; give --again to try it again"
    if error.exit_code == CheckFailed.exit_code:
        return CheckFailed(what, hint, where=error.where)
    return VirtrootError(what, hint, where=error.where)


@task(
    name="upgrade",
    positional=["name"],
    iterable=["take", "keep", "discard"],
    help={
        **GUEST,
        "to": "RECIPE/BUILD, golden, latest, or an artifact's directory; default: the recipe's golden root",
        **DECIDE,
        "restart": "shut the guest down if it runs, boot and verify it, and go back if that fails",
        "again": "try an artifact that this guest failed on before",
        "clone": "clone method: auto (the best there is), snapshot, reflink, overlay or copy",
        "all": "every guest that is not on its recipe's golden root; with a name and --preview: show the whole preview",
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
    """Put a guest on a newer golden root and keep its state; its previous root stays for ./inv rollback.

    ./inv upgrade web --preview
    ./inv upgrade web --restart --keep /var/lib/docker --take old /etc/motd
    """
    ctx = context_of(c)
    wanted = parse_options(parse_choices(take, keep, discard), clone=clone, restart=restart, again=again)
    if not name:
        if not all or to or take or keep or discard:
            raise VirtrootError(
                "no guest is named", "run ./inv upgrade NAME; or --all without --to, --take, --keep and --discard"
            )
        _run_all(wanted, ctx, preview=preview, json=json)
        return
    if all and not preview:
        raise VirtrootError(
            f"--all excludes the name {name}", "omit one of them; with --preview, --all shows everything"
        )
    made = upgrade_target.resolve_artifact(name, to, ctx)
    if preview:
        previews.print_preview(plan_upgrade(name, made, wanted, ctx), everything=all, as_json=json)
        return
    asked = to or take or keep or discard or clone != "auto"
    if reason := "" if asked else upgrade_target.describe_stay(name, made, ctx):
        say(f"{name} {reason}")
        if json:
            print_data({"stays": reason})
        return
    plan = upgrade(name, made, wanted, ctx)
    if json:
        print_data(previews.convert_preview(plan))
    say(f"{name} is on {made.id}; back to the root before: ./inv rollback {name}")


def _run_all(options: UpgradeOptions, ctx: CommandContext, *, preview: bool, json: bool) -> None:
    if not preview:
        if json:
            raise VirtrootError("--all with --json requires --preview", "add --preview, or omit --json")
        upgrade_all((), options, ctx)
        return
    data: dict[str, object] = {}
    try:
        for name, plan in plan_all(options, ctx):
            if json:
                data[name] = {"stays": plan} if isinstance(plan, str) else previews.convert_preview(plan)
                continue
            if isinstance(plan, str):
                result_lines([f"{name} {plan}"])
                continue
            result(name)
            lines = previews.format_preview(plan, more=f"./inv upgrade {name} --preview --all")
            result_lines(f"  {line}" for line in lines)
    finally:
        # After an error, the plans of the other guests are printed all the same.
        if json:
            print_data(data)
