"""Prune: delete the builds, the former roots and the golden trees that nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pipelines.artifact import pruning
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.builder.cache import StageCache
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, previous_roots
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import confirm, say, warn
from pipelines.pool import base_trees
from pipelines.pool import pool as pools
from pipelines.settings import Settings, parse_time_span


def prune(
    recipes: list[str],
    settings: Settings,
    *,
    keep: int,
    older_than: timedelta | None = None,
    former: bool = False,
    asking: Callable[[str], bool] | None = None,
) -> list[str]:
    """Delete the builds of ``recipes`` (all, where none is named) that may go, and return their ids.

    With ``former`` the roots that their guests had before their upgrades go, or that they failed on, and then the
    golden trees of these recipes that no guest is made from; both are returned as their paths.

    The golden root and the one before it, the latest build, the last good one, pinned ones and those that guests were
    made from stay, beside the newest ``keep``. Of builds and former roots stays what is not ``older_than`` that.
    """
    store = Store(settings.output_dir)
    unknown = [name for name in recipes if name not in store.kept()]
    if unknown:
        known = ", ".join(store.kept()) or "-"
        raise VirtrootError(f"nothing is kept of {', '.join(unknown)}", f"recipes with builds: {known}")
    hypervisor = connect(settings)
    in_use = _in_use(hypervisor)
    going = {name: _stale(store, name, in_use, keep, older_than) for name in recipes or store.kept()}
    ids = [artifact.stored_id for artifacts in going.values() for artifact in artifacts]
    pool = pools.look(hypervisor, settings)
    left = _left(hypervisor, recipes, older_than) if former else {}
    roots = [root for found in left.values() for root in found]
    trees = base_trees.unused(hypervisor, pool, recipes, without=roots) if pool else []
    if asking and ids + trees + roots:
        for each in ids + trees + roots:
            say(each)
        words = ((ids, "builds"), (trees, "golden trees"), (roots, "former roots"))
        kinds = [f"{len(found)} {word}" for found, word in words if found]
        if not asking(f"Delete these {' and '.join(kinds)}?"):
            raise VirtrootError("nothing was pruned", "answer yes, or give --yes")
    gone: list[str] = []
    for name in going:
        with store.lock(name):
            # The answer may have taken hours.
            in_use = _in_use(hypervisor)
            # What a killed task left has lost its name already.
            store.clear(name)
            for artifact in _stale(store, name, in_use, keep, older_than):
                if artifact.stored_id in ids:
                    store.delete(artifact)
                    gone.append(artifact.stored_id)
    for name, found in left.items():
        try:
            with hold.hold(hypervisor, name) as guest:
                # The answer may have taken hours, and what is of that time was not asked about.
                still = [each for each in found if each in _of(guest, older_than)]
                previous_roots.delete(guest, still)
                gone += still
        except VirtrootError as error:
            warn(f"the former roots of {name} stay: {error.what}")
    return gone + [tree for tree in trees if base_trees.delete(hypervisor, tree)]


def _left(hypervisor: Hypervisor, recipes: list[str], older_than: timedelta | None) -> dict[str, list[str]]:
    """Return the former roots of the guests of ``recipes`` (all, where none is named), by guest."""
    found = [each for each in guests.every(hypervisor) if not recipes or each.artifact.recipe in recipes]
    left: dict[str, list[str]] = {}
    for guest in found:
        try:
            left[guest.name] = _of(guest, older_than)
        except VirtrootError as error:
            warn(f"the former roots of {guest.name} stay: {error.what}")
    return {name: directories for name, directories in left.items() if directories}


def _of(guest: Guest, older_than: timedelta | None) -> list[str]:
    since = datetime.now(UTC) - older_than if older_than else None
    former = [each.directory for each in previous_roots.every(guest) if since is None or each.replaced < since]
    failed = previous_roots.failed(guest)
    # When that was is not written down: it goes where all do.
    return [*former, *([failed] if failed and since is None else [])]


def _in_use(hypervisor: Hypervisor) -> set[str]:
    return {guest.artifact for guest in guests.every(hypervisor)}


def _stale(store: Store, name: str, in_use: set[str], keep: int, older_than: timedelta | None) -> list[Artifact]:
    base_trees = store.golden(name)
    spared = (base_trees.artifact, base_trees.former, store.newest(name))
    needed = in_use | {artifact.stored_id for artifact in spared if artifact}
    return pruning.find_stale(store.builds(name), keep=keep, older_than=older_than, needed=needed)


def clean_cache(settings: Settings, *, asking: Callable[[str], bool] | None) -> int:
    """Delete the kept roots and return how many bytes that freed; ``asking`` is asked first where it is given.

    Builds that are at work go on: what they read or write they have open.
    """
    cache = StageCache(settings.cache_home, settings.cache_bytes)
    size = cache.size()
    if size and asking and not asking(f"delete {size >> 20} MiB of roots that builds start from?"):
        raise VirtrootError("the stage cache was not deleted", "answer y, or give --yes")
    return cache.clear()


@task(
    name="prune",
    iterable=["recipe"],
    help={
        "recipe": "only builds of this recipe, and former roots of its guests; may be given several times",
        "keep": "how many builds of each recipe are left",
        "older-than": "delete only what is older, like 14d; golden trees, which can be made again, have no age",
        "yes": "do not ask",
    },
)
def prune_task(
    c: Context,
    recipe: list[str],
    keep: str = "",
    older_than: str = "",
    yes: bool = False,
) -> None:
    """Delete builds that nobody needs (no golden root, none pinned or in use), former roots of guests, golden trees.

    ./inv prune --keep 3 --older-than 14d
    """
    settings = settings_of(c, keep=keep)
    try:
        age = parse_time_span(older_than) if older_than else None
    except ValueError as error:
        raise VirtrootError(f"--older-than: {error}", "write it like 14d, 36h or 2w") from error
    gone = prune(recipe, settings, keep=settings.keep, older_than=age, former=True, asking=None if yes else confirm)
    say(f"pruned {len(gone)} builds, golden trees and former roots")


@task(name="clean", help={"cache": "delete the roots that are kept after stages", "yes": "do not ask"})
def clean_task(
    c: Context,
    cache: bool = False,
    yes: bool = False,
) -> None:
    """Free disk space: --cache deletes what builds keep for later ones.

    ./inv clean --cache
    """
    if not cache:
        raise VirtrootError("nothing to clean named", "give --cache")
    freed = clean_cache(settings_of(c), asking=None if yes else confirm)
    say(f"freed {freed >> 20} MiB")
