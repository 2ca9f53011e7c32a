"""Collisions: a path that both the guest and the new root have, and which of the two stays."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pipelines.errors import VirtrootError
from pipelines.merge import entry_changes, paths, policy
from pipelines.merge.baselines import Inventory, Unowned
from pipelines.merge.changes import Changed
from pipelines.merge.policy import Upgrade

#: What every upgrade copies.
ALWAYS_KEPT = tuple(sorted(policy.select_by_upgrade(Upgrade.COPY)))

#: A kept directory below these is data of a program. Files of both roots in it could damage it.
_DATA = policy.select_by_upgrade(Upgrade.ASK_WHOLE)

#: Trees of other systems, whose numbers of users are their own. `engines` finds those at other places.
OTHER_SYSTEMS = policy.select_by_upgrade(Upgrade.ASK_SYSTEM)


def _is_merged(path: str, kept: Iterable[str], systems: Iterable[str] = ()) -> bool:
    """Say whether a path is below a kept one in which files of the new root may stay.

    In ``systems``, trees of other systems, they may not.
    """
    return not paths.is_below(path, systems) and any(
        paths.is_below(path, [each]) and not is_kept_whole(each) for each in kept
    )


def is_kept_whole(path: str, systems: Iterable[str] = ()) -> bool:
    """Say whether ``path``, if it is kept, replaces all that the new root has there.

    That is so for other systems and for data of programs.
    """
    return _is_always_whole(path) or paths.is_below(path, systems)


@lru_cache
def _is_always_whole(path: str) -> bool:
    return is_other_system(path) or (path not in ALWAYS_KEPT and paths.is_below(path, _DATA))


def _select_existing(kept: Iterable[str], ours: Inventory, theirs: Inventory) -> list[str]:
    """Return the paths of ``kept`` that the guest has.

    An inventory does not list the directories of packages: the guest has them unless they are missing.
    """
    return [
        path
        for path in kept
        if any(paths.is_below(each, [path]) for each in ours.unowned) or _is_of_package(path, ours, theirs)
    ]


def refuse_blocked(kept: Iterable[str], ours: Inventory, theirs: Inventory) -> None:
    """Raise `VirtrootError` where the new root has no directory to copy a kept path into."""
    for path in kept:
        if not any(paths.is_below(each, [path]) for each in ours.unowned):
            continue
        for above in paths.walk_up(path.rpartition("/")[0]):
            entry = theirs.unowned.get(above) or (theirs.owned or {}).get(above)
            if entry is not None and entry.kind in ("file", "link", "other"):
                kind = (entry.content or "special file") if entry.kind == "other" else entry.kind
                raise VirtrootError(
                    f"/{path} cannot be kept: /{above} is a {kind} in the new root, and not a directory",
                    f"give --discard /{path}, or move it in the guest",
                )


def resolve_collisions(
    base: Inventory, ours: Inventory, theirs: Inventory, kept: Iterable[str], systems: Iterable[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """Return what stays the new root's below ``kept``, and what of the new root is replaced.

    The new root's version stays where the guest never changed its own.
    """
    left, replaced = [], []
    existing = _select_existing(kept, ours, theirs)
    for path, new in sorted(theirs.unowned.items()):
        if not paths.is_below(path, kept) or paths.is_ignored(path):
            continue
        then, mine = base.unowned.get(path), ours.unowned.get(path)
        if mine is None:
            if then is None and not _is_merged(path, kept, systems) and paths.is_below(path, existing):
                replaced.append(path)
        elif _is_merged(path, kept, systems) and then is not None and _is_unchanged(then, mine):
            left.append(path)
        elif {mine.kind, new.kind} <= {"directory", "tree"}:
            continue
        elif (then is None or _has_other_content(then, new)) and _has_other_content(mine, new):
            replaced.append(path)
    return tuple(left), tuple(replaced)


def _is_unchanged(then: Unowned, mine: Unowned) -> bool:
    """Say whether it is certain that the guest never changed an entry.

    It is certain for files, links and whole trees, but not for directories, nor in records of earlier versions.
    """
    is_known = mine.kind in ("file", "link") or (mine.kind == "tree" and bool(mine.digest and then.digest))
    return is_known and then.mode is not None and not entry_changes.describe_change(then, mine)


def _has_other_content(entry: Unowned, new: Unowned) -> bool:
    """Say whether it is certain that an entry of the new root has other content.

    Times do not tell: they differ between builds.
    """
    return (entry.kind, entry.size, entry.content) != (new.kind, new.size, new.content)


def list_deleted(
    base: Inventory, ours: Inventory, theirs: Inventory, kept: Iterable[str], systems: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return what the guest deleted below ``kept`` and would get back with the new root."""
    deleted = {path for path in base.unowned if path not in ours.unowned and path in theirs.unowned}
    # A directory stays where the new root has something else in it.
    staying = {
        each for path in theirs.unowned if path not in deleted for each in paths.walk_up(path.rpartition("/")[0])
    }
    found = (path for path in deleted - staying if _is_merged(path, kept, systems) and not _is_in_tree(path, ours))
    return paths.drop_nested(sorted(found))


def _is_in_tree(path: str, inventory: Inventory) -> bool:
    """Say whether a path is in a directory that the inventory records as one tree."""
    return any(each in inventory.unowned and inventory.unowned[each].kind == "tree" for each in paths.walk_up(path))


def list_lost_by_rollback(
    base: Inventory, ours: Inventory, theirs: Inventory, kept: Iterable[str], systems: Iterable[str] = ()
) -> list[Changed]:
    """Return what only the previous root has, in directories of the guest that are kept whole.

    It would be lost, since what is kept whole replaces all that the previous root has there.
    """
    return [
        Changed("removed", path, "only the previous root has it", entry.size, entry.entries or None)
        for path, entry in sorted(theirs.unowned.items())
        if path not in base.unowned
        and path not in ours.unowned
        and not paths.is_ignored(path)
        and (path.rpartition("/")[0] in ours.unowned or _is_of_package(path.rpartition("/")[0], ours, theirs))
        and paths.is_below(path, kept)
        and not _is_merged(path, kept, systems)
    ]


def _is_of_package(directory: str, ours: Inventory, theirs: Inventory) -> bool:
    """Say whether the guest has a directory of the other root because a package has it, and it is not missing."""
    return directory not in theirs.unowned and directory not in (ours.missing or {})


def is_other_system(path: str, systems: Iterable[str] = ()) -> bool:
    """Say whether a path is in a tree of another system: at one of the usual places, or in ``systems``."""
    return paths.is_below(path, OTHER_SYSTEMS) or paths.is_below(path, systems)
