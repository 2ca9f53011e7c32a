"""Build, boot, verify and promote each recipe; a recipe that fails keeps its golden root."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipelines.artifact import difference
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import Failure, History, Night, state_since
from pipelines.artifact.reserve import Reserve
from pipelines.artifact.store import Store
from pipelines.build import build
from pipelines.builder import container, inputs
from pipelines.builder.mirror_state import Asker
from pipelines.cli.task import Context, settings_of, task
from pipelines.engine import engine as engines
from pipelines.engine.engine import NameTaken
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import host_requests
from pipelines.host.signals import raise_interrupt_on
from pipelines.install import InstallOptions, install
from pipelines.libvirt.connect import connect, find
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import ignore_output_errors, prefix_lines, say, warn
from pipelines.merge.choices import UpgradeOptions
from pipelines.night import checkout, notice
from pipelines.night.memory import MemoryBudget
from pipelines.night.report import pages
from pipelines.prune import prune
from pipelines.run import delete_temporary, force_off, format_owner, generate_names
from pipelines.settings import CHECKOUT, Settings
from pipelines.target.lock import Busy
from pipelines.text import plain
from pipelines.upgrade import upgrade_all
from pipelines.verify import verify_guest

#: Seconds to wait for another task that works on the same recipe, and between two attempts.
_BUSY_SECONDS, _POLL_SECONDS = 3600, 2

#: The owner in the labels of containers: ending a nightly run ends only the containers of that owner.
_OWNER = "night"

#: Lines of the console of a guest that failed, kept next to its artifact.
_CONSOLE_LINES = 2000

#: What a guest, or virtroot about it, prints when software emulation was too slow for a timeout, or made an error.
_EMULATION = re.compile(
    r"no agent answered within|soft lockup|rcu[^\n]*(stall|starved)|blocked for more than|timer doesn't work"
    r"|segfault|code=(dumped|killed)|timed out|shut off \((crashed|failed)\)",
    re.IGNORECASE,
)


T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One nightly run: what all its recipes share.

    ``asker`` queries the mirrors, or is the error why it cannot; ``ended`` is set when the run is ended early.
    ``accept`` grants recipes from outside the checkout what they request from the host.
    """

    settings: Settings
    keep: int
    commit: str
    dirty: bool
    asker: Asker | VirtrootError
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    record_lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    accept: bool = False

    @property
    def store(self) -> Store:
        """The store of builds and histories."""
        return Store(self.settings.output_dir)

    def refuse_ended(self) -> None:
        """Raise `VirtrootError` if the run was ended: nothing more may be begun or promoted."""
        if self.ended.is_set():
            raise VirtrootError("the nightly run was ended", "run ./inv nightly again")

    @property
    def owner(self) -> str:
        """The owner of this run's temporary guests: it names this machine and the output directory."""
        return format_owner("nightly", self.settings)


@ignore_output_errors()
def nightly(sources: Sequence[Path], settings: Settings, *, keep: int, jobs: int, accept: bool = False) -> list[Night]:
    """Run the recipe files ``sources``, ``jobs`` in parallel, and return a run record for each.

    Guests of recipes from outside the checkout get what those request from the host only with ``accept``.
    A recipe that fails keeps its golden root and does not stop the others. Raises `CheckFailed` at the end if one
    failed, and `VirtrootError` at once if another nightly run is at work.
    """
    stems = [source.stem for source in sources]
    twice = next((source for source in sources if stems.count(source.stem) > 1), None)
    if twice:
        raise VirtrootError(f"two recipes are named {twice.stem}", "rename one: builds are stored under this name")
    with Store(settings.output_dir).lock("all", "night"), raise_interrupt_on(signal.SIGTERM):
        Reserve(settings.output_dir).keep()
        with ExitStack() as stack:
            run = Run(settings, keep, *checkout.read_state(), _make_asker(settings, stack), accept=accept)
            _clear_leftovers(run)
            records = (
                _run_parallel(sources, run, jobs) if jobs > 1 else [_run_recipe(source, run) for source in sources]
            )
        _write_pages(settings)
        behind = _upgrade(settings)
    for night in records:
        say(f"{night.recipe}: {night.summary}")
    failed = [night.recipe for night in records if not night.good]
    if failed:
        raise CheckFailed(
            f"{len(failed)} of {len(records)} recipes failed: {', '.join(failed)}",
            f"read the reasons above, or {settings.output_dir / pages.PAGE}; their golden roots are unchanged",
        )
    if behind:
        raise CheckFailed(behind.what, behind.hint)
    return records


def _upgrade(settings: Settings) -> VirtrootError | None:
    """Upgrade guests to the golden roots as configured; return the error if some were not upgraded."""
    if settings.upgrade == "none":
        return None
    names = () if settings.upgrade == "all" else settings.upgrade.split()
    try:
        upgrade_all(names, UpgradeOptions(restart=True), settings)
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


def _make_asker(settings: Settings, stack: ExitStack) -> Asker | VirtrootError:
    try:
        return stack.enter_context(Asker(engines.connect(), settings, owner=_OWNER))
    except VirtrootError as error:
        # A run without an engine is recorded, too.
        return error


def _run_parallel(sources: Sequence[Path], run: Run, jobs: int) -> list[Night]:
    def one(source: Path) -> Night:
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
        engines.connect().remove_containers({**container.make_output_labels(run.settings), "virtroot.owner": _OWNER})
        hypervisor = find(run.settings)
        for guest in guests.list_guests(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                # virsh fails for a guest that is off, which is not an error here.
                guest.hypervisor.virsh("destroy", guest.uuid, check=False)


def _run_recipe(source: Path, run: Run) -> Night:
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
    night = Night(
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
            return night
        return _record_and_notify(night, run)


def _build_and_promote(source: Path, run: Run, facts: dict[str, Any]) -> str:
    """Build, verify and promote one recipe, and return the outcome; ``facts`` receives the fields of the record."""
    store, name = run.store, source.stem
    known = {artifact.stored_id for artifact in store.builds(name)}
    nights = store.history(name).nights()
    before = store.golden(name).artifact
    if isinstance(run.asker, VirtrootError):
        raise run.asker
    planned, asker = inputs.find(recipe=str(source), snapshots=run.settings.snapshots), run.asker
    # Recipes in the checkout are the user's own. The guests of a nightly run have no recorded shares.
    consent = host_requests.grant if run.accept or source.resolve().is_relative_to(CHECKOUT) else None
    host_requests.refuse_unaccepted(
        "the guest of this nightly run", f"the recipe {source}", host_requests.describe(planned.recipe.guest), consent
    )
    artifact = _retry_while_busy(run, lambda: build(planned, run.settings, asker=asker))
    facts |= _collect_facts(store, artifact, before, nights, known)
    golden = store.golden(name)
    if golden.is_demoted(artifact):
        say(f"{artifact.id} was demoted by ./inv demote: it is not promoted again until something changes")
        return "kept"
    if before and before.stored_id == artifact.stored_id and nights and nights[-1].good:
        facts["verdicts"] = artifact.manifest.verdicts
        return "unchanged"
    if artifact.stored_id in known and golden.is_older(artifact):
        # A change was reverted, so an earlier build is current again. A golden root is never older than the one before.
        say(f"{artifact.id} is current again, but older than the golden root: building it again")
        artifact = _retry_while_busy(run, lambda: build(planned, run.settings, rebuild=True, asker=asker))
        facts |= _collect_facts(store, artifact, before, nights, known)
    if golden.is_older(artifact):
        say(f"{artifact.id} is older than the golden root, and is not promoted")
        return "kept"
    try:
        _verify_in_guest(artifact, run, facts)
    finally:
        facts["verdicts"] = Artifact(artifact.directory).manifest.verdicts
    _retry_while_busy(run, lambda: _promote(store, artifact))
    try:
        _retry_while_busy(run, lambda: prune([name], run.settings, keep=run.keep))
    except (VirtrootError, OSError) as error:
        # This does not concern the root, which is golden already.
        warn(f"cannot delete old builds of {name}: {error}")
    return "unchanged" if before and before.stored_id == artifact.stored_id else "promoted"


def _collect_facts(
    store: Store, artifact: Artifact, before: Artifact | None, nights: Sequence[Night], known: Collection[str]
) -> dict[str, Any]:
    manifest = artifact.manifest
    last = next((each.artifact for each in reversed(nights) if each.artifact), "")
    return {
        "artifact": artifact.id,
        "plan": manifest.plan,
        "stages": () if artifact.stored_id in known else manifest.stages,
        "packed_size": manifest.rootfs.size,
        "unpacked_size": manifest.rootfs.unpacked_size,
        "since_last": _compare_with(store, last, artifact),
        "since_golden": _compare_with(store, before.stored_id if before else "", artifact),
    }


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


def _compare_with(store: Store, former: str, artifact: Artifact) -> difference.Difference | None:
    made = store.find(former) if former else None
    if made is None:
        return None
    try:
        now, then = artifact.manifest, made.manifest
    except VirtrootError as error:
        warn(f"cannot compare {artifact.stored_id} with {former}: {error.what}")
        return None
    return difference.compare(then.packages, now.packages, now.recipe.distro)


def _verify_in_guest(artifact: Artifact, run: Run, facts: dict[str, Any]) -> None:
    """Boot a guest from ``artifact``, verify it, and remove it."""
    settings = run.settings
    run.refuse_ended()
    hypervisor = connect(settings)
    memory = artifact.manifest.recipe.guest.memory
    name = _install(hypervisor, artifact, run)
    try:
        with run.memory.reserve(hypervisor.target, memory, settings.timeout, run.refuse_ended):
            run.refuse_ended()
            try:
                verdict = verify_guest(name, settings, boot=True)
            except VirtrootError as error:
                run.refuse_ended()
                if error.where != Phase.BOOT or hypervisor.kvm or not _EMULATION.search(str(error)):
                    raise
                warn(f"{error.what}: this may be due to software emulation; trying once more")
                facts["retried"] = error.what
                force_off(hypervisor, name)
                verdict = verify_guest(name, settings, boot=True)
            facts["boot_seconds"] = verdict.boot_seconds
    except VirtrootError:
        # The guest is about to be removed, and its console log with it.
        with suppress(VirtrootError, OSError):
            console = guests.get(hypervisor, name).read_console_tail(_CONSOLE_LINES)
            artifact.console_log.write_text(f"{console}\n", encoding="utf-8")
        raise
    finally:
        delete_temporary(hypervisor, name, run.settings, run.owner)


def _install(hypervisor: Hypervisor, artifact: Artifact, run: Run) -> str:
    """Install a temporary guest from ``artifact``, and return its name."""
    options = InstallOptions(cache="always", transient=run.owner, clone="copy", consent=host_requests.grant)
    busy: set[str] = set()
    while True:
        name = _choose_name(hypervisor, artifact.manifest.name, run, busy)
        try:
            install(name, artifact, options, run.settings)
        except Busy:
            # A run of another checkout is about to install its guest under that name.
            busy.add(name)
        else:
            return name


def _choose_name(hypervisor: Hypervisor, recipe: str, run: Run, busy: Collection[str] = ()) -> str:
    """Return a free name for a guest, none of ``busy``; a guest that could not be removed before is removed again."""
    there = {guest.name: guest for guest in guests.list_guests(hypervisor)}
    taken = {*busy, *(known.name for known in hypervisor.domains())}
    for name in generate_names("night", recipe):
        if name not in busy and name in there and there[name].transient == run.owner:
            say(f"removing the guest {name} that a killed nightly run left")
            delete_temporary(hypervisor, name, run.settings, run.owner)
            return name
        if name not in taken:
            return name
    raise VirtrootError(f"there are too many guests of {recipe}", "remove some of them")


def _clear_leftovers(run: Run) -> None:
    """Delete what killed runs left: guests, since no other run of this owner is at work, and incomplete builds.

    A hypervisor that is not running is not started for that.
    """
    for name in run.store.recipes():
        try:
            with run.store.lock(name):
                run.store.clear(name)
                if isinstance(run.asker, Asker):
                    container.remove_leftovers(run.asker.engine, name, run.settings)
        except Busy:
            continue
        except (VirtrootError, OSError) as error:
            warn(f"cannot delete what a killed build of {name} left: {error}")
    try:
        hypervisor = find(run.settings)
        for guest in guests.list_guests(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                say(f"removing the guest {guest.name} that a killed nightly run left")
                delete_temporary(guest.hypervisor, guest.name, run.settings, run.owner)
    except VirtrootError as error:
        warn(f"cannot check whether a killed nightly run left guests: {error.what}")


def _record_and_notify(night: Night, run: Run) -> Night:
    """Record a run and, if the state of its recipe changed, send notices; return the final record.

    A run that cannot be recorded counts as failed, since nobody would notice it otherwise; the others continue.
    """
    history = run.store.history(night.recipe)
    nights: list[Night] = []
    try:
        nights = history.nights()
        _record(history, night, run)
    except VirtrootError as error:
        warn(f"{night.recipe}: {error.what}")
        failure = night.failure or Failure.of(Phase.ENGINE, error.what, str(error))
        night = night.model_copy(update={"outcome": "failed", "failure": failure})
    former = nights[-1] if nights else None
    if night.good == (former.good if former else True):
        return night
    document = json.dumps(
        {
            "recipe": night.recipe,
            "state": night.state,
            "former_state": former.state if former else "",
            "former_since": state_since(nights),
            "night": night.model_dump(mode="json"),
        }
    )
    for command in (run.settings.on_failure if not night.good else "", run.settings.on_change):
        if command:
            notice.send(command, document)
    return night


def _record(history: History, night: Night, run: Run) -> None:
    try:
        history.append(night)
    except VirtrootError as error:
        if not Reserve(run.settings.output_dir).release():
            raise
        warn(f"{error.what}: using the disk space that was reserved for this")
        history.append(night)


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
    settings = settings_of(c, **given)
    sources = [inputs.get_source(each) for each in recipe] or inputs.list_nightly()
    nightly(sources, settings, keep=settings.keep, jobs=jobs, accept=accept)
