"""Delete builds, previous roots and base trees that are no longer needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pipelines.artifact import pruning
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.builder.cache import StageCache
from pipelines.cli.task import Context, context_of, settings_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, previous_roots
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import confirm, say, warn
from pipelines.pool import base_trees
from pipelines.pool import pool as pools
from pipelines.settings import Settings, parse_time_span


def prune(
    recipes: list[str],
    ctx: CommandContext,
    *,
    keep: int,
    older_than: timedelta | None = None,
    previous: bool = False,
    asking: Callable[[str], bool] | None = None,
) -> list[str]:
    """Delete the builds of ``recipes`` (empty: all) that are no longer needed, and return their ids.

    With ``previous``, also delete the previous and failed roots of their guests, and then the base trees of these
    recipes that no guest uses; both are returned as paths. ``asking`` confirms a question before anything is deleted.

    These builds are kept: the newest ``keep``, the golden root and the one before it, the latest build, the last good
    one, pinned ones, and those that guests were made from. Builds and previous roots that are not older than
    ``older_than`` are kept, too.
    """
    store = ctx.store
    unknown = [name for name in recipes if name not in store.kept()]
    if unknown:
        known = ", ".join(store.kept()) or "-"
        raise VirtrootError(f"no builds of {', '.join(unknown)}", f"use one of the recipes with builds: {known}")
    hypervisor = ctx.hypervisor
    in_use = _list_used_artifacts(hypervisor)
    going = {name: _find_stale(store, name, in_use, keep, older_than) for name in recipes or store.kept()}
    ids = [artifact.stored_id for artifacts in going.values() for artifact in artifacts]
    pool = pools.find_directory(hypervisor, ctx.settings)
    left = _find_previous_roots(hypervisor, recipes, older_than) if previous else {}
    roots = [root for found in left.values() for root in found]
    trees = base_trees.find_unused(hypervisor, pool, recipes, without=roots) if pool else []
    if asking and ids + trees + roots:
        for each in ids + trees + roots:
            say(each)
        words = ((ids, "builds"), (trees, "base trees"), (roots, "previous roots"))
        kinds = [f"{len(found)} {word}" for found, word in words if found]
        if not asking(f"Delete these {' and '.join(kinds)}?"):
            raise VirtrootError("nothing was pruned", "answer yes, or use --yes")
    gone: list[str] = []
    for name in going:
        with store.lock(name):
            # List them again: the answer may have taken hours.
            in_use = _list_used_artifacts(hypervisor)
            # Remove the leftovers of killed tasks, which no longer have their names.
            store.clear(name)
            for artifact in _find_stale(store, name, in_use, keep, older_than):
                if artifact.stored_id in ids:
                    store.delete(artifact)
                    gone.append(artifact.stored_id)
    for name, found in left.items():
        try:
            with hold.hold(hypervisor, name) as guest:
                # The answer may have taken hours. Delete only roots that the question was about.
                still = [each for each in found if each in _list_previous_roots(guest, older_than)]
                previous_roots.delete(guest, still)
                gone += still
        except VirtrootError as error:
            warn(f"cannot delete the previous roots of {name}: {error.what}")
    return gone + [tree for tree in trees if base_trees.delete(hypervisor, tree)]


def _find_previous_roots(
    hypervisor: Hypervisor, recipes: list[str], older_than: timedelta | None
) -> dict[str, list[str]]:
    """Return the previous roots of the guests of ``recipes`` (empty: all), by guest."""
    found = [each for each in guests.list_guests(hypervisor) if not recipes or each.source.artifact.recipe in recipes]
    left: dict[str, list[str]] = {}
    for guest in found:
        try:
            left[guest.name] = _list_previous_roots(guest, older_than)
        except VirtrootError as error:
            warn(f"cannot list the previous roots of {guest.name}: {error.what}")
    return {name: directories for name, directories in left.items() if directories}


def _list_previous_roots(guest: Guest, older_than: timedelta | None) -> list[str]:
    since = datetime.now(UTC) - older_than if older_than else None
    previous = [
        each.directory for each in previous_roots.list_previous(guest) if since is None or each.replaced < since
    ]
    failed = previous_roots.find_failed(guest)
    # The age of a failed root is not recorded, so it is deleted only if the age does not matter.
    return [*previous, *([failed] if failed and since is None else [])]


def _list_used_artifacts(hypervisor: Hypervisor) -> set[str]:
    return {guest.source.artifact for guest in guests.list_guests(hypervisor)}


def _find_stale(store: Store, name: str, in_use: set[str], keep: int, older_than: timedelta | None) -> list[Artifact]:
    golden = store.golden(name)
    spared = (golden.artifact, golden.previous, store.newest(name))
    needed = in_use | {artifact.stored_id for artifact in spared if artifact}
    return pruning.find_stale(store.builds(name), keep=keep, older_than=older_than, needed=needed)


def clean_cache(settings: Settings, *, asking: Callable[[str], bool] | None) -> int:
    """Delete the roots in the stage cache, and return the number of bytes freed; ``asking`` confirms the question.

    Running builds are not affected: they have their files open.
    """
    cache = StageCache(settings.cache_home, settings.cache_bytes)
    size = cache.size()
    if size and asking and not asking(f"Delete {size >> 20} MiB of the stage cache?"):
        raise VirtrootError("the stage cache was not deleted", "answer yes, or use --yes")
    return cache.clear()


@task(
    name="prune",
    iterable=["recipe"],
    help={
        "recipe": "only builds of this recipe, and previous roots of its guests; repeatable",
        "keep": "the number of builds of each recipe to keep",
        "older-than": "delete only builds and previous roots older than, for example, 14d; base trees have no age",
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
    """Delete builds (except golden roots, pinned builds and those in use), previous roots and base trees.

    ./inv prune --keep 3 --older-than 14d
    """
    ctx = context_of(c, keep=keep)
    try:
        age = parse_time_span(older_than) if older_than else None
    except ValueError as error:
        raise VirtrootError(f"--older-than: {error}", "use a time span like 14d, 36h or 2w") from error
    gone = prune(recipe, ctx, keep=ctx.settings.keep, older_than=age, previous=True, asking=None if yes else confirm)
    say(f"pruned {len(gone)} builds, base trees and previous roots")


@task(name="clean", help={"cache": "delete the stage cache", "yes": "do not ask"})
def clean_task(
    c: Context,
    cache: bool = False,
    yes: bool = False,
) -> None:
    """Free disk space; --cache deletes the stage cache.

    ./inv clean --cache
    """
    if not cache:
        raise VirtrootError("nothing to clean", "use --cache")
    freed = clean_cache(settings_of(c), asking=None if yes else confirm)
    say(f"freed {freed >> 20} MiB")
