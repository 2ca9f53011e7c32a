"""What is nobody's in the pool and beside it: what killed tasks left, and what a domain that is gone belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.guest import hold, publication
from pipelines.guest.guest import Guest
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import base_trees, place
from pipelines.pool.place import Place
from pipelines.target.lock import LOCKS

OF = "the pool"

#: Directories in which locks are, or that are locked themselves.
LOCKED = (LOCKS, place.BOOT)

#: So many names are enough to know what it is about.
_NAMED = 5


def examine(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> list[Finding]:
    """Judge what lies around in the directory ``pool`` and in that of guests' kernels; ``every`` guest is given."""
    return [
        left(hypervisor, pool, seen),
        boots(hypervisor, pool, seen, every),
        roots(hypervisor, pool, seen, every),
        trees(hypervisor, pool, seen, every),
        overlays(pool, seen, every),
    ]


def _entries(seen: Facts, directory: str) -> list[str]:
    found = seen["directories"].get(directory)
    return [name for name, _ in found["entries"]] if found else []


def _busy(seen: Facts, name: str) -> bool:
    """Say whether a task works on the guest ``name``: what it has under way is none of ours."""
    return place.lock(name) in seen["held"]


def left(hypervisor: Hypervisor, pool: str, seen: Facts) -> Finding:
    """Judge what has a hidden name, and no task that works on it."""
    found: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for directory in (pool, place.BOOT):
        for entry in _entries(seen, directory):
            path = f"{directory}/{entry}"
            name, key = place.guest_of_leftover(entry), base_trees.parse_leftover_key(entry)
            # libvirt's hook locks the directory while it copies a kernel there, a publication its journal.
            under_way = path in seen["held"] or (directory == place.BOOT and place.BOOT in seen["held"])
            if name and not _busy(seen, name) and not under_way:
                found.setdefault(name, []).append(path)
            if key and place.base_tree_lock(key) not in seen["held"]:
                keys.setdefault(key, []).append(path)
    stale = [path for paths in (*found.values(), *keys.values()) for path in paths]
    if not stale:
        return fine(OF, "killed tasks", "left nothing")

    def sweep() -> None:
        for name in found:
            _sweep(hypervisor, Place(pool, name))
        for key in keys:
            base_trees.delete_leftovers(hypervisor.target, place.base_tree(pool, key))

    do = "--fix deletes it; else the next install of that name does"
    fix = Fix(f"finish or delete what killed tasks left: {_some(stale)}", sweep)
    return fault(OF, "killed tasks", f"left {_some(stale)}", do, needed=False, fix=fix)


def _sweep(hypervisor: Hypervisor, paths: Place) -> None:
    """Finish or delete what killed tasks left of a guest; whether a domain or a root is there is looked up again."""
    with hold.new(hypervisor, paths):
        publication.sweep(hypervisor, paths)


def boots(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Judge the directories with guests' kernels: one that no domain names is nobody's, unless its root is there."""
    used = {guest.boot for guest in every}
    there = _entries(seen, pool)
    names = [
        name for name in map(place.guest_of_boot, _entries(seen, place.BOOT)) if name and place.boot(name) not in used
    ]
    stale = [
        name
        for name in names
        if not _busy(seen, name)
        and not {name} & {place.guest_of_entry(entry) for entry in there}
        and not hypervisor.naming(place.boot(name))
    ]
    if not stale:
        return fine(OF, "boot directories", f"{len(used)}, each of a guest")

    def clear() -> None:
        for name in stale:
            _sweep(hypervisor, Place(pool, name))

    paths = _some([place.boot(name) for name in stale])
    fix = Fix(f"delete {paths}", clear)
    do = "--fix deletes it: a kernel and a manifest whose domain and root are gone"
    return fault(OF, "boot directories", f"{paths} without a domain", do, needed=False, fix=fix)


def roots(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Judge whether what looks like a guest's is some guest's; a root holds data, so that it is only said."""
    known = {guest.root for guest in every} | {guest.name for guest in every}
    alone = [
        f"{pool}/{entry}"
        for entry in _entries(seen, pool)
        if (name := place.guest_of_entry(entry))
        and not {name, Place(pool, name).root} & known
        and not _busy(seen, name)
    ]
    stale = [path for path in alone if not hypervisor.naming(path)]
    if not stale:
        return fine(OF, "roots", f"{len(every)}, each of a guest")
    do = "define its domain again (virsh define), or move it away or delete it: virtroot does not, since it holds data"
    return fault(OF, "roots", f"{_some(stale)} without a domain", do, needed=False)


def trees(hypervisor: Hypervisor, pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Judge whether golden trees are what was unpacked; that some serve nobody is only mentioned."""
    keys = [key for key in map(base_trees.parse_key, _entries(seen, pool)) if key]
    if not keys:
        return fine(OF, "golden trees", "none")
    paths = [place.base_tree(pool, key) for key in keys if place.base_tree_lock(key) not in seen["held"]]
    damaged = [path for path in paths if not base_trees.is_unchanged(hypervisor.target, path)]
    lying = [guest.name for guest in every if guest.lower and guest.golden in damaged]
    if damaged:
        says = f"{_some(damaged)} changed since it was unpacked"
        if lying:
            do = "put it back as it was (a copy does not do), or remove these guests"
            return fault(OF, "golden trees", f"{says}, and {', '.join(lying)} lies on it", do)
        return fault(OF, "golden trees", says, "nothing: the next install unpacks it anew", needed=False)
    served = {guest.golden for guest in every}
    unused = len(base_trees.find_unused(hypervisor, pool, [])) if set(paths) - served else 0
    more = f"; {unused} of them no guest is made from: ./inv prune" if unused else ""
    return fine(OF, "golden trees", f"{len(keys)}, as they were unpacked{more}")


def overlays(pool: str, seen: Facts, every: Sequence[Guest]) -> Finding:
    """Judge whether each layer that is mounted in the pool is that of a guest."""
    layered = {guest.root for guest in every if guest.lower}
    mounted = [point for point, kind in seen["mounts"] if kind == "overlay" and point.startswith(f"{pool}/")]
    # What is below a hidden name goes with that.
    alone = [
        point
        for point in mounted
        if point not in layered and (name := place.guest_of_entry(point[len(pool) + 1 :])) and not _busy(seen, name)
    ]
    if alone:
        do = f"umount {alone[0]}" if len(alone) == 1 else "umount each of them"
        return fault(OF, "overlay mounts", f"{_some(alone)} without a guest", do, needed=False)
    return fine(OF, "overlay mounts", f"{len(mounted)}, each of a guest" if mounted else "none")


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{', '.join(paths[:_NAMED])}{more}"
