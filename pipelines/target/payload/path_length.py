"""Checks that all paths in a tree are short enough for programs that take paths, like cp.

A guest can nest directories deeper than any path can reach; see PATH_MAX in path_resolution(7).
"""

from __future__ import annotations

import os

from . import beneath
from .errors import TooLong
from .walk import descend


def check(tree: str, most: int) -> None:
    """Raise `TooLong` if a path below ``tree`` has more than ``most`` bytes."""
    with beneath.opened(tree, beneath.DIRECTORY) as top:
        for directory, name, _ in descend(top):
            if directory.length + len(os.fsencode(name)) > most:
                path = "/".join([*directory.parts[:100], name])[:60].encode(errors="replace").decode()
                raise TooLong(f"/{path}... is nested too deep: its path has more than {most} bytes")
