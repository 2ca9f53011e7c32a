"""Paths of a root, without a slash before them: which of them is below which, and which of them are ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from pipelines.merge import policy
from pipelines.merge.policy import Diff

_IGNORED = re.compile("|".join(map(policy.regex, policy.at_diff(Diff.IGNORE))))

#: Entries that are ignored, though what is in them is not.
_ALONE = policy.at_diff(Diff.IGNORE_ENTRY)

#: Whether a path, or one above it, matches: each is matched once, however many paths are below it.
_KNOWN: dict[str, bool] = {}
_MOST_KNOWN = 1 << 20


def ignored(path: str) -> bool:
    """Say whether a path is of the guest's identity, or made by programs from something else, or is below such."""
    if path in _ALONE:
        return True
    unknown = []
    for each in above(path):
        if each in _KNOWN:
            found = _KNOWN[each]
            break
        unknown.append(each)
    else:
        found = False
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.clear()
    # The nearest to the top first: what is below one that is ignored is, too.
    for each in reversed(unknown):
        found = _KNOWN[each] = found or _IGNORED.fullmatch(each) is not None
    return found


def above(path: str) -> Iterator[str]:
    """Yield ``path`` and the directories above it, the nearest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def below(path: str, trees: Iterable[str]) -> bool:
    """Say whether a path is one of ``trees``, or in one; of a set that takes as long as the path is deep."""
    if isinstance(trees, Mapping):
        trees = trees.keys()
    if isinstance(trees, AbstractSet):
        return any(each in trees for each in above(path))
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths without those that are below another one, in their order."""
    unique = dict.fromkeys(paths)
    return tuple(path for path in unique if not any(each in unique for each in above(path.rpartition("/")[0])))
