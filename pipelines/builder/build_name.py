"""Finds configuration files with the builder's host name; `install` replaces it by the guest's."""

from __future__ import annotations

from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.target.target import Target
from pipelines.text import split_lines

#: Limits on files, bytes of output and seconds, since a recipe's commands may have written any number of files.
_MAX_FILES, _LIMIT, _TIMEOUT = 100, 1 << 20, 300

# grep follows no link below the directory.
_FIND = 'cd "$1"; { [ -L etc ] || grep -rlIF -e "$2" -- etc || :; } | head -n "$3"'


def find(target: Target, root: str) -> tuple[str, ...]:
    """Return the paths of the files below /etc in ``root`` that contain the builder's host name, sorted."""
    argv = ("sh", "-c", _FIND, "name", root, BUILD_NAME, str(_MAX_FILES))
    found = split_lines(target.run(argv, limit=_LIMIT, timeout=_TIMEOUT).text)
    return tuple(sorted(path for path in found if path.startswith("etc/") and path.isprintable()))
