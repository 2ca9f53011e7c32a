"""Build, boot, verify and promote each recipe; a recipe that fails keeps its golden root."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from pipelines import candidate
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import Failure, RunRecord
from pipelines.artifact.reserve import Reserve
from pipelines.artifact.store import Store
from pipelines.build import build
from pipelines.builder import container, inputs
from pipelines.builder.mirror_state import Asker
from pipelines.candidate import Run
from pipelines.cli.task import Context, context_of, task
from pipelines.context import CommandContext
from pipelines.engine.engine import NameTaken
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import host_requests
from pipelines.host.signals import raise_interrupt_on
from pipelines.log import ignore_output_errors, prefix_lines, say, warn
from pipelines.merge.choices import UpgradeOptions
from pipelines.night import checkout, recording
from pipelines.night.report import pages
from pipelines.prune import prune
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from pipelines.text import plain
from pipelines.upgrade import upgrade_all

#: Seconds to wait for another task that works on the same recipe, and between two attempts.
_BUSY_SECONDS, _POLL_SECONDS = 3600, 2

#: The owner in the labels of containers: ending a nightly run ends only the containers of that owner.
_OWNER = "night"

T = TypeVar("T")


@ignore_output_errors()
def nightly(
    sources: Sequence[Path], ctx: CommandContext, *, keep: int, jobs: int, accept: bool = False
) -> list[RunRecord]:
    """Run the recipe files ``sources``, ``jobs`` in parallel, and return a run record for each.

    Guests of recipes from outside the checkout get what those request from the host only with ``accept``.
    A recipe that fails keeps its golden root and does not stop the others. Raises `CheckFailed` at the end if one
    failed, and `VirtrootError` at once if another nightly run is at work.
    """
    stems = [source.stem for source in sources]
    twice = next((source for source in sources if stems.count(source.stem) > 1), None)
    if twice:
        raise VirtrootError(f"two recipes are named {twice.stem}", "rename one: builds are stored under this name")
    with ctx.store.lock("all", "night"), raise_interrupt_on(signal.SIGTERM):
        Reserve(ctx.settings.output_dir).keep()
        with ExitStack() as stack:
            run = Run(
                ctx.settings, keep, *checkout.read_state(ctx.settings.project), _make_asker(ctx, stack), accept=accept
            )
            candidate.clear_leftovers(run)
            records = (
                _run_parallel(sources, run, jobs) if jobs > 1 else [_run_recipe(source, run) for source in sources]
            )
        _write_pages(ctx.settings)
        behind = _upgrade(run.open())
    for record in records:
        say(f"{record.recipe}: {record.summary}")
    failed = [record.recipe for record in records if not record.good]
    if failed:
        raise CheckFailed(
            f"{len(failed)} of {len(records)} recipes failed: {', '.join(failed)}",
            f"read the reasons above, or {ctx.settings.output_dir / pages.PAGE}; their golden roots are unchanged",
        )
    if behind:
        raise CheckFailed(behind.what, behind.hint)
    return records


def _upgrade(ctx: CommandContext) -> VirtrootError | None:
    """Upgrade guests to the golden roots as configured; return the error if some were not upgraded."""
    if ctx.settings.upgrade == "none":
        return None
    names = () if ctx.settings.upgrade == "all" else ctx.settings.upgrade.split()
    try:
        upgrade_all(names, UpgradeOptions(restart=True), ctx)
    except VirtrootError as error:
        warn(f"{error.what}")
        return error
    return None


def _write_pages(settings: Settings) -> None:
    """Write the pages; no error, not even a bug in them, may fail the nightly run."""
    try:
        say(f"wrote the pages of all recipes: {pages.write(settings.output_dir)}")
    except VirtrootError as error:
        warn(f"cannot write the pages: {error.what}")
    except Exception as error:
        warn(f"cannot write the pages because of a bug in virtroot: {error!r}")


def _make_asker(ctx: CommandContext, stack: ExitStack) -> Asker | VirtrootError:
    try:
        return stack.enter_context(Asker(ctx.engine, ctx.settings, owner=_OWNER))
    except VirtrootError as error:
        # A run without an engine is recorded, too.
        return error


def _run_parallel(sources: Sequence[Path], run: Run, jobs: int) -> list[RunRecord]:
    def one(source: Path) -> RunRecord:
        with prefix_lines(source.stem):
            return _run_recipe(source, run)

    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(one, source) for source in sources]
        try:
            return [each.result() for each in pending]
        except BaseException:
            run.ended.set()
            for each in pending:
                each.cancel()
            # A recipe that is about to start a builder or a guest may do so after the first look, so look again.
            while wait(pending, timeout=1).not_done:
                _end_work(run)
            raise


def _end_work(run: Run) -> None:
    """End builders and guests of the recipes at work; without them each recipe fails soon and cleans up."""
    with suppress(VirtrootError):
        ctx = run.open()
        ctx.engine.remove_containers({**container.make_output_labels(run.settings), "virtroot.owner": _OWNER})
        hypervisor = ctx.find_hypervisor()
        for guest in guests.list_guests(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                # virsh fails for a guest that is off, which is not an error here.
                guest.hypervisor.virsh("destroy", guest.uuid, check=False)


def _run_recipe(source: Path, run: Run) -> RunRecord:
    """Run one recipe, record the result, and send notices."""
    begin, clock = time.gmtime(), time.monotonic()
    facts: dict[str, Any] = {}
    failure = None
    # A file name that is not valid as a recipe's name is refused below, and this is recorded, too.
    name = plain(source.stem)
    say(f"{name}: started")
    try:
        facts["outcome"] = _build_and_promote(source, run, facts)
    except VirtrootError as error:
        failure = Failure.of(error.where, error.what, str(error))
    except OSError as error:
        failure = Failure.of(
            Phase.ENGINE, f"{error.strerror or error}: {error.filename or run.settings.output_dir}", str(error)
        )
    except Exception as error:
        failure = Failure.of(Phase.ENGINE, f"a bug in virtroot: {error!r}", traceback.format_exc())
    if failure:
        say(failure.text, lines=True)
    golden = run.store.golden(name).artifact
    record = RunRecord(
        recipe=name,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", begin),
        seconds=round(time.monotonic() - clock, 1),
        golden=golden.stored_id if golden else "",
        failure=failure,
        commit=run.commit,
        dirty=run.dirty,
        **{"outcome": "failed", **facts},
    )
    with run.record_lock:
        # A failure because the run was ended says nothing about the recipe.
        if run.ended.is_set():
            return record
        return recording.record_and_notify(record, run.store, run.settings)


def _build_and_promote(source: Path, run: Run, facts: dict[str, Any]) -> str:
    """Build, verify and promote one recipe, and return the outcome; ``facts`` receives the fields of the record."""
    store, name = run.store, source.stem
    known = {artifact.stored_id for artifact in store.builds(name)}
    records = store.history(name).records()
    before = store.golden(name).artifact
    if isinstance(run.asker, VirtrootError):
        raise run.asker
    planned, asker = inputs.find(recipe=str(source), settings=run.settings), run.asker
    # Recipes in the checkout are the user's own. The guests of a nightly run have no recorded shares.
    consent = host_requests.grant if run.accept or source.resolve().is_relative_to(run.settings.project) else None
    host_requests.refuse_unaccepted(
        "the guest of this nightly run", f"the recipe {source}", host_requests.describe(planned.recipe.guest), consent
    )
    artifact = _retry_while_busy(run, lambda: build(planned, run.open(), asker=asker))
    facts |= recording.collect_facts(store, artifact, before, records, known)
    golden = store.golden(name)
    if golden.is_demoted(artifact):
        say(f"{artifact.id} was demoted by ./inv demote: it is not promoted again until something changes")
        return "kept"
    if before and before.stored_id == artifact.stored_id and records and records[-1].good:
        facts["verdicts"] = artifact.manifest.verdicts
        return "unchanged"
    if artifact.stored_id in known and golden.is_older(artifact):
        # A change was reverted, so an earlier build is current again. A golden root is never older than the one before.
        say(f"{artifact.id} is current again, but older than the golden root: building it again")
        artifact = _retry_while_busy(run, lambda: build(planned, run.open(), rebuild=True, asker=asker))
        facts |= recording.collect_facts(store, artifact, before, records, known)
    if golden.is_older(artifact):
        say(f"{artifact.id} is older than the golden root, and is not promoted")
        return "kept"
    try:
        candidate.verify_in_guest(artifact, run, facts)
    finally:
        facts["verdicts"] = Artifact(artifact.directory).manifest.verdicts
    _retry_while_busy(run, lambda: _promote(store, artifact))
    try:
        _retry_while_busy(run, lambda: prune([name], run.open(), keep=run.keep))
    except (VirtrootError, OSError) as error:
        # This does not concern the root, which is golden already.
        warn(f"cannot delete old builds of {name}: {error}")
    return "unchanged" if before and before.stored_id == artifact.stored_id else "promoted"


def _promote(store: Store, artifact: Artifact) -> None:
    name = artifact.manifest.name
    with store.lock(name):
        # Read the manifest again: it has the verdict now.
        store.golden(name).promote(Artifact(artifact.directory))


def _retry_while_busy(run: Run, task: Callable[[], T]) -> T:
    """Return the result of ``task``; wait while another task, like a manual build, works on the same recipe."""
    begin = time.monotonic()
    reported = False
    while True:
        run.refuse_ended()
        try:
            return task()
        except (Busy, NameTaken) as error:
            if time.monotonic() - begin > _BUSY_SECONDS:
                raise
            if not reported:
                say(f"{error.what}: waiting for it")
            reported = True
        run.ended.wait(_POLL_SECONDS)


@task(
    name="nightly",
    iterable=["recipe"],
    help={
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe to keep",
        "jobs": "how many recipes to process in parallel",
        "on-failure": "run this command when a recipe begins to fail, with the record on its standard input",
        "on-change": "run this command when a recipe begins to fail or succeeds again",
        "accept": "also grant what recipes from outside the checkout request from the host: overlayfs, a network",
    },
)
def nightly_task(
    c: Context,
    recipe: list[str],
    keep: str = "",
    jobs: int = 1,
    on_failure: str = "",
    on_change: str = "",
    accept: bool = False,
) -> None:
    """Build, boot, verify and promote each recipe; one that fails keeps its golden root.

    ./inv nightly
    ./inv nightly --recipe web --keep 3 --jobs 2
    """
    given = {"keep": keep, "on_failure": on_failure, "on_change": on_change}
    ctx = context_of(c, **given)
    sources = [inputs.get_source(each, ctx.settings) for each in recipe] or inputs.list_nightly(ctx.settings)
    nightly(sources, ctx, keep=ctx.settings.keep, jobs=jobs, accept=accept)
