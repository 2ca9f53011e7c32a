"""Nightly: each recipe built, booted, verified and promoted, or left as it was with the reason."""

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
from pipelines.night import checkout, notice
from pipelines.night.memory import Room
from pipelines.night.report import pages
from pipelines.prune import prune
from pipelines.run import end, names, owner, throw_away
from pipelines.settings import CHECKOUT, Settings
from pipelines.target.lock import Busy
from pipelines.text import plain
from pipelines.upgrade import UpgradeOptions, upgrade_all
from pipelines.verify import verify_guest

#: Seconds that a night waits for another task at work on one of its recipes, and after which it looks again.
_PATIENCE, _POLL = 3600, 2

#: What is said of a night's containers beside the output directory: nobody else's are ended with it.
_OWNER = "night"

#: Lines of the console of a guest that failed that are kept beside its artifact.
_CONSOLE_LINES = 2000

#: What a guest, or virtroot of it, says when software emulation was too slow for a timer, or wrong for once.
_EMULATION = re.compile(
    r"no agent answered within|soft lockup|rcu[^\n]*(stall|starved)|blocked for more than|timer doesn't work"
    r"|segfault|code=(dumped|killed)|timed out|shut off \((crashed|failed)\)",
    re.IGNORECASE,
)


T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One night: what all its recipes share.

    ``asker`` asks the mirrors, or is why nothing can be asked; ``ended`` is set when somebody ends the night early.
    With ``accept`` the host gives what recipes from outside the checkout ask of it, too.
    """

    settings: Settings
    keep: int
    commit: str
    dirty: bool
    asker: Asker | VirtrootError
    room: Room = field(default_factory=Room)
    telling: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    accept: bool = False

    @property
    def store(self) -> Store:
        """Where builds and histories are."""
        return Store(self.settings.output_dir)

    def refuse_ended(self) -> None:
        """Raise `VirtrootError` where somebody ended the night: what is not begun, let alone promoted, stays so."""
        if self.ended.is_set():
            raise VirtrootError("the night was ended", "./inv nightly runs another one")

    @property
    def owner(self) -> str:
        """Whose the guests are that this night throws away: no other machine's, and no other checkout's."""
        return owner("nightly", self.settings)


@ignore_output_errors()
def nightly(sources: Sequence[Path], settings: Settings, *, keep: int, jobs: int, accept: bool = False) -> list[Night]:
    """Run a night over the recipe files ``sources``, ``jobs`` side by side, and return a record for each.

    The guests of recipes from outside the checkout get what those ask of the host only with ``accept``.
    A recipe that fails keeps its golden root and stops no other. Raises `CheckFailed` at the end where one failed, and
    `VirtrootError` at once where another night is at work.
    """
    stems = [source.stem for source in sources]
    twice = next((source for source in sources if stems.count(source.stem) > 1), None)
    if twice:
        raise VirtrootError(f"two recipes are called {twice.stem}", "builds are kept under a recipe's name: rename one")
    with Store(settings.output_dir).lock("all", "night"), raise_interrupt_on(signal.SIGTERM):
        Reserve(settings.output_dir).keep()
        with ExitStack() as stack:
            run = Run(settings, keep, *checkout.state(), _asker(settings, stack), accept=accept)
            _clear_left(run)
            nights = _side_by_side(sources, run, jobs) if jobs > 1 else [_one(source, run) for source in sources]
        _write_pages(settings)
        behind = _upgrade(settings)
    for night in nights:
        say(f"{night.recipe}: {night.summary}")
    failed = [night.recipe for night in nights if not night.good]
    if failed:
        raise CheckFailed(
            f"{len(failed)} of {len(nights)} recipes failed: {', '.join(failed)}",
            f"read the reasons above, or {settings.output_dir / pages.PAGE}; their golden roots are as they were",
        )
    if behind:
        raise CheckFailed(behind.what, behind.hint)
    return nights


def _upgrade(settings: Settings) -> VirtrootError | None:
    """Put guests on the golden roots where the settings say so; return why not all are on them, if so."""
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
    """Write the pages; whatever keeps them from it, a bug included, is no part of the night."""
    try:
        say(f"the pages of all recipes: {pages.write(settings.output_dir)}")
    except VirtrootError as error:
        warn(f"the pages were not written: {error.what}")
    except Exception as error:
        warn(f"the pages were not written, by a bug of virtroot's: {error!r}")


def _asker(settings: Settings, stack: ExitStack) -> Asker | VirtrootError:
    try:
        return stack.enter_context(Asker(engines.connect(), settings, owner=_OWNER))
    except VirtrootError as error:
        # A night without an engine is recorded, too.
        return error


def _side_by_side(sources: Sequence[Path], run: Run, jobs: int) -> list[Night]:
    def one(source: Path) -> Night:
        with prefix_lines(source.stem):
            return _one(source, run)

    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(one, source) for source in sources]
        try:
            return [each.result() for each in pending]
        except BaseException:
            run.ended.set()
            for each in pending:
                each.cancel()
            # What is about to start a builder or a guest has it only after we looked.
            while wait(pending, timeout=1).not_done:
                _take_away(run)
            raise


def _take_away(run: Run) -> None:
    """End what the recipes at work have: without its builder or guest each comes to its end, and clears up."""
    with suppress(VirtrootError):
        engines.connect().remove_containers({**container.make_output_labels(run.settings), "virtroot.owner": _OWNER})
        hypervisor = find(run.settings)
        for guest in guests.every(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                # One that is off is not ended, which is no error.
                guest.hypervisor.virsh("destroy", guest.uuid, check=False)


def _one(source: Path, run: Run) -> Night:
    """Run the night of one recipe, record it, and tell who wants to know."""
    begin, clock = time.gmtime(), time.monotonic()
    facts: dict[str, Any] = {}
    failure = None
    # A file that no recipe can be called after is refused below, and that has to be written down, too.
    name = plain(source.stem)
    say(f"{name} begins")
    try:
        facts["outcome"] = _work(source, run, facts)
    except VirtrootError as error:
        failure = Failure.of(error.where, error.what, str(error))
    except OSError as error:
        failure = Failure.of(
            Phase.ENGINE, f"{error.strerror or error}: {error.filename or run.settings.output_dir}", str(error)
        )
    except Exception as error:
        failure = Failure.of(Phase.ENGINE, f"a bug of virtroot's: {error!r}", traceback.format_exc())
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
    with run.telling:
        # What failed because the night was ended says nothing of its recipe.
        if run.ended.is_set():
            return night
        return _tell(night, run)


def _work(source: Path, run: Run, facts: dict[str, Any]) -> str:
    """Build, prove and promote one recipe, and return the outcome; what is known of it goes into ``facts``."""
    store, name = run.store, source.stem
    known = {artifact.stored_id for artifact in store.builds(name)}
    nights = store.history(name).nights()
    before = store.golden(name).artifact
    if isinstance(run.asker, VirtrootError):
        raise run.asker
    planned, asker = inputs.find(recipe=str(source), snapshots=run.settings.snapshots), run.asker
    # The files of the checkout are the user's own word. The guests of a night have no recorded shares.
    consent = host_requests.granted if run.accept or source.resolve().is_relative_to(CHECKOUT) else None
    host_requests.refuse_unaccepted(
        "the guest of this night", f"the recipe {source}", host_requests.describe(planned.recipe.guest), consent
    )
    artifact = _patiently(run, lambda: build(planned, run.settings, asker=asker))
    facts |= _facts(store, artifact, before, nights, known)
    golden = store.golden(name)
    if golden.is_demoted(artifact):
        say(f"{artifact.id} was taken back by ./inv demote: it is not promoted again until something changes")
        return "kept"
    if before and before.stored_id == artifact.stored_id and nights and nights[-1].good:
        facts["verdicts"] = artifact.manifest.verdicts
        return "unchanged"
    if artifact.stored_id in known and golden.is_older(artifact):
        # A change was taken back: what was built before it is wanted again, and nothing golden goes back in time.
        say(f"{artifact.id} is wanted again, and is older than the golden root: it is built anew")
        artifact = _patiently(run, lambda: build(planned, run.settings, rebuild=True, asker=asker))
        facts |= _facts(store, artifact, before, nights, known)
    if golden.is_older(artifact):
        say(f"{artifact.id} is older than the golden root, which never goes back in time")
        return "kept"
    try:
        _prove(artifact, run, facts)
    finally:
        facts["verdicts"] = Artifact(artifact.directory).manifest.verdicts
    _patiently(run, lambda: _promote(store, artifact))
    try:
        _patiently(run, lambda: prune([name], run.settings, keep=run.keep))
    except (VirtrootError, OSError) as error:
        # That says nothing of the root, which is golden by now.
        warn(f"old builds of {name} stay for now: {error}")
    return "unchanged" if before and before.stored_id == artifact.stored_id else "promoted"


def _facts(
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
        "since_last": _since(store, last, artifact),
        "since_golden": _since(store, before.stored_id if before else "", artifact),
    }


def _promote(store: Store, artifact: Artifact) -> None:
    name = artifact.manifest.name
    with store.lock(name):
        # Its manifest has the verdict by now.
        store.golden(name).promote(Artifact(artifact.directory))


def _patiently(run: Run, task: Callable[[], T]) -> T:
    """Return what ``task`` does, as soon as nobody else works on the same recipe: somebody may build it by hand."""
    begin = time.monotonic()
    told = False
    while True:
        run.refuse_ended()
        try:
            return task()
        except (Busy, NameTaken) as error:
            if time.monotonic() - begin > _PATIENCE:
                raise
            if not told:
                say(f"{error.what}: waiting for it")
            told = True
        run.ended.wait(_POLL)


def _since(store: Store, former: str, artifact: Artifact) -> difference.Difference | None:
    made = store.find(former) if former else None
    if made is None:
        return None
    try:
        now, then = artifact.manifest, made.manifest
    except VirtrootError as error:
        warn(f"{artifact.stored_id} is compared with nothing: {error.what}")
        return None
    return difference.compare(then.packages, now.packages, now.recipe.distro)


def _prove(artifact: Artifact, run: Run, facts: dict[str, Any]) -> None:
    """Boot a guest of ``artifact`` and verify it; the guest is gone afterwards."""
    settings = run.settings
    run.refuse_ended()
    hypervisor = connect(settings)
    memory = artifact.manifest.recipe.guest.memory
    name = _install(hypervisor, artifact, run)
    try:
        with run.room.for_guest(hypervisor.target, memory, settings.timeout, run.refuse_ended):
            run.refuse_ended()
            try:
                verdict = verify_guest(name, settings, boot=True)
            except VirtrootError as error:
                run.refuse_ended()
                if error.where != Phase.BOOT or hypervisor.kvm or not _EMULATION.search(str(error)):
                    raise
                warn(f"{error.what}: software emulation is known for that; once more")
                facts["retried"] = error.what
                end(hypervisor, name)
                verdict = verify_guest(name, settings, boot=True)
            facts["boot_seconds"] = verdict.boot_seconds
    except VirtrootError:
        # The guest is about to go, and what it said with it.
        with suppress(VirtrootError, OSError):
            console = guests.find(hypervisor, name).console_tail(_CONSOLE_LINES)
            artifact.console_log.write_text(f"{console}\n", encoding="utf-8")
        raise
    finally:
        throw_away(hypervisor, name, run.settings, run.owner)


def _install(hypervisor: Hypervisor, artifact: Artifact, run: Run) -> str:
    """Install a guest of ``artifact`` that is thrown away, and return its name."""
    options = InstallOptions(cache="always", transient=run.owner, clone="copy", consent=host_requests.granted)
    busy: set[str] = set()
    while True:
        name = _vacant(hypervisor, artifact.manifest.name, run, busy)
        try:
            install(name, artifact, options, run.settings)
        except Busy:
            # Another checkout's run is about to install its own under that name.
            busy.add(name)
        else:
            return name


def _vacant(hypervisor: Hypervisor, recipe: str, run: Run, busy: Collection[str] = ()) -> str:
    """Return a name for a guest that nobody has, none of ``busy``; one that could not be removed is removed again."""
    there = {guest.name: guest for guest in guests.every(hypervisor)}
    taken = {*busy, *(known.name for known in hypervisor.domains())}
    for name in names("night", recipe):
        if name not in busy and name in there and there[name].transient == run.owner:
            say(f"removing the guest {name} that a killed night left")
            throw_away(hypervisor, name, run.settings, run.owner)
            return name
        if name not in taken:
            return name
    raise VirtrootError(f"too many guests of {recipe} are there", "remove some of them")


def _clear_left(run: Run) -> None:
    """Remove what killed nights left: guests, of which no other night has any now, and builds that nobody works on.

    A hypervisor that does not run is not started for that.
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
            warn(f"what a killed build of {name} left is there still: {error}")
    try:
        hypervisor = find(run.settings)
        for guest in guests.every(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                say(f"removing the guest {guest.name} that a killed night left")
                throw_away(guest.hypervisor, guest.name, run.settings, run.owner)
    except VirtrootError as error:
        warn(f"whether a killed night left guests is not known: {error.what}")


def _tell(night: Night, run: Run) -> Night:
    """Record a night and, where the state of its recipe changed with it, give notice; return what came of it.

    Nobody would know of a night without a record: it counts as failed, and stops no other.
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
        warn(f"{error.what}: room that was kept for that is used now")
        history.append(night)


@task(
    name="nightly",
    iterable=["recipe"],
    help={
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe are left",
        "jobs": "how many recipes are at work side by side",
        "on-failure": "run this command when a recipe begins to fail, the record on its standard input",
        "on-change": "run this command when a recipe begins to fail or is in order again",
        "accept": "let the host give what recipes from outside the checkout ask of it, too: overlayfs, a network",
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
