"""Paths of a root, without a slash before them: which is below which, and which are ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from pipelines.merge import policy
from pipelines.merge.policy import Diff

_IGNORED = re.compile("|".join(map(policy.to_regex, policy.select_by_diff(Diff.IGNORE))))

#: Entries that are ignored, while what is in them is not.
_ENTRIES_IGNORED = policy.select_by_diff(Diff.IGNORE_ENTRY)

#: Whether a path, or a directory above it, matches. Without this, each path would be matched as often as there are
#: paths below it.
_CACHE: dict[str, bool] = {}
_MOST_CACHED = 1 << 20


def is_ignored(path: str) -> bool:
    """Say whether `diff` ignores a path: the rule of the path, or of a directory above it, says so."""
    if path in _ENTRIES_IGNORED:
        return True
    unknown = []
    for each in walk_up(path):
        if each in _CACHE:
            found = _CACHE[each]
            break
        unknown.append(each)
    else:
        found = False
    if len(_CACHE) > _MOST_CACHED:
        _CACHE.clear()
    # From the top down: what is below an ignored directory is ignored, too.
    for each in reversed(unknown):
        found = _CACHE[each] = found or _IGNORED.fullmatch(each) is not None
    return found


def walk_up(path: str) -> Iterator[str]:
    """Yield ``path`` and the directories above it, the nearest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def is_below(path: str, trees: Iterable[str]) -> bool:
    """Say whether a path is one of ``trees`` or in one of them.

    With a set or a mapping the time grows with the depth of the path, with anything else with the number of trees.
    """
    if isinstance(trees, Mapping):
        trees = trees.keys()
    if isinstance(trees, AbstractSet):
        return any(each in trees for each in walk_up(path))
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)


def drop_nested(found: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that are not below another one of them, in their order."""
    unique = dict.fromkeys(found)
    return tuple(path for path in unique if not any(each in unique for each in walk_up(path.rpartition("/")[0])))
