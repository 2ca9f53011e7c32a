"""Boot and verify an artifact in a temporary guest, for a nightly run."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.builder import container
from pipelines.builder.mirror_state import Asker
from pipelines.context import CommandContext
from pipelines.errors import Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import host_requests
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.log import say, warn
from pipelines.night.memory import MemoryBudget
from pipelines.run import delete_temporary, force_off, format_owner, generate_names
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from pipelines.verify import verify_guest

#: Lines of the console of a guest that failed, kept next to its artifact.
_CONSOLE_LINES = 2000

#: What a guest, or virtroot about it, prints when software emulation was too slow for a timeout, or made an error.
_EMULATION = re.compile(
    r"no agent answered within|soft lockup|rcu[^\n]*(stall|starved)|blocked for more than|timer doesn't work"
    r"|segfault|code=(dumped|killed)|timed out|shut off \((crashed|failed)\)",
    re.IGNORECASE,
)


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

    def open(self) -> CommandContext:
        """Return a context for a part of the run; an engine or a hypervisor may be restarted between two parts."""
        return CommandContext(self.settings)

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


def verify_in_guest(artifact: Artifact, run: Run, facts: dict[str, Any]) -> None:
    """Boot a guest from ``artifact``, verify it, and remove it."""
    ctx = run.open()
    run.refuse_ended()
    hypervisor = ctx.hypervisor
    memory = artifact.manifest.recipe.guest.memory
    name = _install(artifact, run, ctx)
    try:
        with run.memory.reserve(hypervisor.target, memory, run.settings.timeout, run.refuse_ended):
            run.refuse_ended()
            try:
                verdict = verify_guest(name, ctx, boot=True)
            except VirtrootError as error:
                run.refuse_ended()
                if error.where != Phase.BOOT or hypervisor.kvm or not _EMULATION.search(str(error)):
                    raise
                warn(f"{error.what}: this may be due to software emulation; trying once more")
                facts["retried"] = error.what
                force_off(hypervisor, name)
                verdict = verify_guest(name, ctx, boot=True)
            facts["boot_seconds"] = verdict.boot_seconds
    except VirtrootError:
        # The guest is about to be removed, and its console log with it.
        with suppress(VirtrootError, OSError):
            console = guests.get(hypervisor, name).read_console_tail(_CONSOLE_LINES)
            artifact.console_log.write_text(f"{console}\n", encoding="utf-8")
        raise
    finally:
        delete_temporary(name, ctx, run.owner)


def _install(artifact: Artifact, run: Run, ctx: CommandContext) -> str:
    """Install a temporary guest from ``artifact``, and return its name."""
    options = InstallOptions(cache="always", transient=run.owner, clone="copy", consent=host_requests.grant)
    busy: set[str] = set()
    while True:
        name = _choose_name(artifact.manifest.name, run, ctx, busy)
        try:
            install(name, artifact, options, ctx)
        except Busy:
            # A run of another checkout is about to install its guest under that name.
            busy.add(name)
        else:
            return name


def _choose_name(recipe: str, run: Run, ctx: CommandContext, busy: Collection[str] = ()) -> str:
    """Return a free name for a guest, none of ``busy``; a guest that could not be removed before is removed again."""
    there = {guest.name: guest for guest in guests.list_guests(ctx.hypervisor)}
    taken = {*busy, *(known.name for known in ctx.hypervisor.domains())}
    for name in generate_names("night", recipe):
        if name not in busy and name in there and there[name].transient == run.owner:
            say(f"removing the guest {name} that a killed nightly run left")
            delete_temporary(name, ctx, run.owner)
            return name
        if name not in taken:
            return name
    raise VirtrootError(f"there are too many guests of {recipe}", "remove some of them")


def clear_leftovers(run: Run) -> None:
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
        ctx = run.open()
        hypervisor = ctx.find_hypervisor()
        for guest in guests.list_guests(hypervisor) if hypervisor else ():
            if guest.transient == run.owner:
                say(f"removing the guest {guest.name} that a killed nightly run left")
                delete_temporary(guest.name, ctx, run.owner)
    except VirtrootError as error:
        warn(f"cannot check whether a killed nightly run left guests: {error.what}")
