#!/usr/bin/env python3
"""Says whether all paths in a tree are short enough for programs that take paths, like cp. Runs on libvirt's host.

A guest can nest directories deeper than any path reaches; see PATH_MAX in path_resolution(7). Called with the tree and
the most bytes that a path below it may have. Exits with a reason where one has more.
"""

import os
import sys
from collections.abc import Sequence

from pipelines.target.payload.tree import descend

#: Exit status where a path is too long.
TOO_LONG = 3


def too_long(tree: str, most: int) -> str:
    """Return the beginning of a path of more than ``most`` bytes below ``tree``; empty where there is none."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory, name, _ in descend(top):
            if directory.length + len(os.fsencode(name)) > most:
                return "/".join([*directory.parts[:100], name])[:60]
    finally:
        os.close(top)
    return ""


def main(arguments: Sequence[str]) -> None:
    """See the module's docstring."""
    tree, most = arguments
    found = too_long(tree, int(most)).encode(errors="replace").decode()
    if found:
        sys.stderr.write(f"virtroot: /{found}... is nested too deep: its path has more than {most} bytes\n")
        sys.exit(TOO_LONG)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"virtroot: {error}")
