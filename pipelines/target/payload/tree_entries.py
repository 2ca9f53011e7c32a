"""Lists a tree of a root that is copied, with the paths of its entries."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from . import beneath
from .errors import Refused
from .walk import Directory, descend

#: A tree has at most this many levels of directories.
DEEPEST = 1000

#: The path of a directory has at most this many bytes. cp takes paths of up to 4095, from a directory's descriptor on.
_LONGEST = 3500


def list_entries(
    root: int, path: str, is_skipped: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, int, str, os.stat_result]]:
    """Yield path, open directory, name and status of ``path`` and of each entry below it.

    A directory comes before its entries. Paths for which ``is_skipped`` says so are left out with all below them.
    """
    parent, name = beneath.split(path)
    with beneath.directory(root, parent) as handle:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if is_skipped(path):
            return
        yield path, handle, name, status
    if not stat.S_ISDIR(status.st_mode):
        return
    with beneath.directory(root, path) as top:
        for current, name, status in descend(top, lambda here, name, _: not is_skipped(_join(path, here, name))):
            if len(current.parts) > DEEPEST or current.length > _LONGEST:
                start = f"{path}/{'/'.join(current.parts[:100])}"
                raise Refused(f"{start[:60]}...: is nested deeper than cp can copy: {DEEPEST} directories")
            each = _join(path, current, name)
            if not is_skipped(each):
                yield each, current.handle, name, status


def _join(path: str, directory: Directory, name: str) -> str:
    return "/".join([path, *directory.parts, name])
