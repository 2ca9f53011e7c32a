"""What is kept of a guest, and what the other root has there: which of the two stays where they meet."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pipelines.errors import VirtrootError
from pipelines.merge import entry_changes, paths, policy
from pipelines.merge.baselines import Survey, Unowned
from pipelines.merge.changes import Changed
from pipelines.merge.policy import Upgrade

#: What is copied at each upgrade.
KEPT = tuple(sorted(policy.at_upgrade(Upgrade.COPY)))

#: Below these a directory that is kept is a program's data, in which nothing may come from two sides.
_DATA = policy.at_upgrade(Upgrade.ASK_WHOLE)

#: In these are other systems, whose numbers of users are theirs. Where a guest has them elsewhere: see `engines`.
FOREIGN = policy.at_upgrade(Upgrade.ASK_SYSTEM)


def _merged(path: str, kept: Iterable[str], systems: Iterable[str] = ()) -> bool:
    """Say whether a path is below something that is kept, and that the new root's own may stay in.

    In ``systems``, trees of other systems, it may not.
    """
    return not paths.below(path, systems) and any(paths.below(path, [each]) and not is_whole(each) for each in kept)


def is_whole(path: str, systems: Iterable[str] = ()) -> bool:
    """Say whether nothing of the new root's stays in what is kept as ``path``: other systems, and programs' data."""
    return _is_whole_anyway(path) or paths.below(path, systems)


@lru_cache
def _is_whole_anyway(path: str) -> bool:
    return foreign(path) or (path not in KEPT and paths.below(path, _DATA))


def _there(kept: Iterable[str], ours: Survey, theirs: Survey) -> list[str]:
    """Return the paths that the guest has, for all that is known: a package's directory is, unless it is missing."""
    return [
        path
        for path in kept
        if any(paths.below(each, [path]) for each in ours.unowned) or _is_packages(path, ours, theirs)
    ]


def refuse_in_the_way(kept: Iterable[str], ours: Survey, theirs: Survey) -> None:
    """Raise `VirtrootError` where the new root has no directory for something that is kept to be in."""
    for path in kept:
        if not any(paths.below(each, [path]) for each in ours.unowned):
            continue
        for above in paths.above(path.rpartition("/")[0]):
            entry = theirs.unowned.get(above) or (theirs.owned or {}).get(above)
            if entry is not None and entry.kind in ("file", "link", "other"):
                kind = (entry.content or "special file") if entry.kind == "other" else entry.kind
                raise VirtrootError(
                    f"/{path} cannot be kept: /{above}, which it is in, is a {kind} in the new root",
                    f"--discard /{path}, or move it in the guest",
                )


def met(
    base: Survey, ours: Survey, theirs: Survey, kept: Iterable[str], systems: Iterable[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """Return, of what is kept, where the new root's stays since the guest never changed it, and what is replaced."""
    left, replaced = [], []
    there = _there(kept, ours, theirs)
    for path, new in sorted(theirs.unowned.items()):
        if not paths.below(path, kept) or paths.ignored(path):
            continue
        then, mine = base.unowned.get(path), ours.unowned.get(path)
        if mine is None:
            if then is None and not _merged(path, kept, systems) and paths.below(path, there):
                replaced.append(path)
        elif _merged(path, kept, systems) and then is not None and _is_as_it_was(then, mine):
            left.append(path)
        elif {mine.kind, new.kind} <= {"directory", "tree"}:
            continue
        elif (then is None or _content(then) != _content(new)) and _content(mine) != _content(new):
            replaced.append(path)
    return tuple(left), tuple(replaced)


def _is_as_it_was(then: Unowned, mine: Unowned) -> bool:
    """Say for certain that the guest never changed something, which a directory does not tell, but a whole tree does.

    Records of earlier versions do not say enough.
    """
    told = mine.kind in ("file", "link") or (mine.kind == "tree" and bool(mine.digest and then.digest))
    return told and then.mode is not None and not entry_changes.otherwise(then, mine)


def _content(entry: Unowned) -> tuple[str, int, str]:
    """Return what tells contents of different builds apart, whose times are different: not all, but what is certain."""
    return entry.kind, entry.size, entry.content


def went(
    base: Survey, ours: Survey, theirs: Survey, kept: Iterable[str], systems: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return what was taken away in the guest below what is kept, and would come back with the new root."""
    gone = {path for path in base.unowned if path not in ours.unowned and path in theirs.unowned}
    # What is in a directory beside what went keeps that.
    staying = {each for path in theirs.unowned if path not in gone for each in paths.above(path.rpartition("/")[0])}
    found = (path for path in gone - staying if _merged(path, kept, systems) and not _in_tree(path, ours))
    return paths.outermost(sorted(found))


def _in_tree(path: str, survey: Survey) -> bool:
    """Say whether a path is in what was told as one."""
    return any(each in survey.unowned and survey.unowned[each].kind == "tree" for each in paths.above(path))


def only_there(
    base: Survey, ours: Survey, theirs: Survey, kept: Iterable[str], systems: Iterable[str] = ()
) -> list[Changed]:
    """Return what the former root alone has in something that is kept whole, and that the guest has, too."""
    return [
        Changed("removed", path, "only the former root has it", entry.size, entry.entries or None)
        for path, entry in sorted(theirs.unowned.items())
        if path not in base.unowned
        and path not in ours.unowned
        and not paths.ignored(path)
        and (path.rpartition("/")[0] in ours.unowned or _is_packages(path.rpartition("/")[0], ours, theirs))
        and paths.below(path, kept)
        and not _merged(path, kept, systems)
    ]


def _is_packages(directory: str, ours: Survey, theirs: Survey) -> bool:
    """Say whether a directory that the other root has is a package's, which the guest has then unless it is missing."""
    return directory not in theirs.unowned and directory not in (ours.missing or {})


def foreign(path: str, systems: Iterable[str] = ()) -> bool:
    """Say whether what is in ``path`` is another system's: in the usual places, or in ``systems``."""
    return paths.below(path, FOREIGN) or paths.below(path, systems)
