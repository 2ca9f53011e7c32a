"""Where packages wrote the name of the builder into their configuration: `install` writes the guest's there."""

from __future__ import annotations

from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.target.target import Target
from pipelines.text import split_lines

#: No more files are named, and their paths take fewer bytes; a recipe's commands may have written what they like.
_MOST, _LIMIT, _TIMEOUT = 100, 1 << 20, 300

# grep follows no link below the directory.
_FIND = 'cd "$1"; { [ -L etc ] || grep -rlIF -e "$2" -- etc || :; } | head -n "$3"'


def find(target: Target, root: str) -> tuple[str, ...]:
    """Return the paths of the files below /etc in ``root`` that have the builder's name in them, sorted."""
    argv = ("sh", "-c", _FIND, "name", root, BUILD_NAME, str(_MOST))
    found = split_lines(target.run(argv, limit=_LIMIT, timeout=_TIMEOUT).text)
    return tuple(sorted(path for path in found if path.startswith("etc/") and path.isprintable()))
