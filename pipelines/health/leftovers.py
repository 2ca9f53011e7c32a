"""Entries in the pool and among the boot directories without an owner: killed tasks or removed domains left them."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.guest import hold, publication
from pipelines.guest.guest import Guest
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import base_trees, place
from pipelines.pool.place import Place
from pipelines.target.payload.names import LOCKS

OF = "the pool"

#: Directories that contain locks, or are locked themselves.
LOCKED = (LOCKS, place.BOOT)

#: How many paths a message lists.
_SHOWN = 5


def examine(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> list[Finding]:
    """Check what is left in the directory ``pool`` and among the boot directories; ``every`` has all guests."""
    return [
        judge_leftovers(hypervisor, pool, seen),
        judge_boot_directories(hypervisor, pool, seen, every),
        judge_roots(hypervisor, pool, seen, every),
        judge_base_trees(hypervisor, pool, seen, every),
        judge_mounts(pool, seen, every),
    ]


def _list_entries(seen: Facts, directory: str) -> list[str]:
    found = seen["directories"].get(directory)
    return [name for name, _ in found["entries"]] if found else []


def _is_busy(seen: Facts, name: str) -> bool:
    """Return whether a task is working on the guest ``name``: its files are not leftovers then."""
    return place.lock(name) in seen["held"]


def judge_leftovers(hypervisor: Hypervisor, pool: str, seen: Facts) -> Finding:
    """Check for hidden entries on which no task is working."""
    found: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for directory in (pool, place.BOOT):
        for entry in _list_entries(seen, directory):
            path = f"{directory}/{entry}"
            name, key = place.guest_of_leftover(entry), base_trees.parse_leftover_key(entry)
            # libvirt's hook locks the directory while it copies a kernel there; a publication locks its journal.
            under_way = path in seen["held"] or (directory == place.BOOT and place.BOOT in seen["held"])
            if name and not _is_busy(seen, name) and not under_way:
                found.setdefault(name, []).append(path)
            if key and place.base_tree_lock(key) not in seen["held"]:
                keys.setdefault(key, []).append(path)
    stale = [path for paths in (*found.values(), *keys.values()) for path in paths]
    if not stale:
        return fine(OF, "killed tasks", "left nothing")

    def sweep() -> None:
        for name in found:
            _delete_leftovers(hypervisor, Place(pool, name))
        for key in keys:
            base_trees.delete_leftovers(hypervisor.target, place.base_tree(pool, key))

    do = "run doctor with --fix to delete it; the next install of that name deletes it, too"
    fix = Fix(f"finish or delete what killed tasks left: {_join_paths(stale)}", sweep)
    return fault(OF, "killed tasks", f"left {_join_paths(stale)}", do, needed=False, fix=fix)


def _delete_leftovers(hypervisor: Hypervisor, paths: Place) -> None:
    """Finish or delete what killed tasks left of a guest; it checks again whether there is a domain or a root."""
    with hold.new(hypervisor, paths):
        publication.delete_hidden(hypervisor, paths)


def judge_boot_directories(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Check for boot directories that no domain names; one whose root exists does not count."""
    used = {guest.boot for guest in every}
    there = _list_entries(seen, pool)
    names = [
        name
        for name in map(place.guest_of_boot, _list_entries(seen, place.BOOT))
        if name and place.boot(name) not in used
    ]
    stale = [
        name
        for name in names
        if not _is_busy(seen, name)
        and not {name} & {place.guest_of_entry(entry) for entry in there}
        and not hypervisor.find_domains_using(place.boot(name))
    ]
    if not stale:
        return fine(OF, "boot directories", f"{len(used)}, each of a guest")

    def clear() -> None:
        for name in stale:
            _delete_leftovers(hypervisor, Place(pool, name))

    paths = _join_paths([place.boot(name) for name in stale])
    fix = Fix(f"delete {paths}", clear)
    do = "run doctor with --fix to delete it: the domain and the root are gone"
    return fault(OF, "boot directories", f"{paths} without a domain", do, needed=False, fix=fix)


def judge_roots(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Check for roots, snapshots and previous roots without a guest; they contain data, so they are only reported."""
    known = {guest.root for guest in every} | {guest.name for guest in every}
    alone = [
        f"{pool}/{entry}"
        for entry in _list_entries(seen, pool)
        if (name := place.guest_of_entry(entry))
        and not {name, Place(pool, name).root} & known
        and not _is_busy(seen, name)
    ]
    stale = [path for path in alone if not hypervisor.find_domains_using(path)]
    if not stale:
        return fine(OF, "roots", f"{len(every)}, each of a guest")
    do = "define its domain again (virsh define), or move or delete it yourself, since it contains data"
    return fault(OF, "roots", f"{_join_paths(stale)} without a domain", do, needed=False)


def judge_base_trees(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Check whether base trees are as they were unpacked; unused ones are only mentioned."""
    keys = [key for key in map(base_trees.parse_key, _list_entries(seen, pool)) if key]
    if not keys:
        return fine(OF, "golden trees", "none")
    paths = [place.base_tree(pool, key) for key in keys if place.base_tree_lock(key) not in seen["held"]]
    damaged = [path for path in paths if not base_trees.is_unchanged(hypervisor.target, path)]
    lying = [guest.name for guest in every if guest.source.lower and guest.source.golden in damaged]
    if damaged:
        says = f"{_join_paths(damaged)} changed since it was unpacked"
        if lying:
            do = "restore its original content (a copy is not enough), or remove these guests"
            return fault(OF, "golden trees", f"{says}, and is used by {', '.join(lying)}", do)
        return fault(OF, "golden trees", says, "nothing: the next install unpacks it again", needed=False)
    served = {guest.source.golden for guest in every}
    unused = len(base_trees.find_unused(hypervisor, pool, [])) if set(paths) - served else 0
    more = f"; {unused} of them without a guest: ./inv prune" if unused else ""
    return fine(OF, "golden trees", f"{len(keys)}, unchanged{more}")


def judge_mounts(pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Check whether each overlay mounted in the pool is the root of a guest."""
    layered = {guest.root for guest in every if guest.source.lower}
    mounted = [point for point, kind in seen["mounts"] if kind == "overlay" and point.startswith(f"{pool}/")]
    # A mount below a hidden name is reported with that entry.
    alone = [
        point
        for point in mounted
        if point not in layered and (name := place.guest_of_entry(point[len(pool) + 1 :])) and not _is_busy(seen, name)
    ]
    if alone:
        do = f"umount {alone[0]}" if len(alone) == 1 else "umount each of them"
        return fault(OF, "overlay mounts", f"{_join_paths(alone)} without a guest", do, needed=False)
    return fine(OF, "overlay mounts", f"{len(mounted)}, each of a guest" if mounted else "none")


def _join_paths(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(paths[:_SHOWN])}{more}"
