"""Finds signs in a root: files that exist, and text in them.

A stranger wrote the root. Every path is opened beneath it, only regular files are read, and every size has a limit.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from . import beneath
from .errors import Refused

#: Limits: bytes of a file that are searched, entries of a directory that are read, and texts of a file that are kept.
_LARGEST, _MOST_ENTRIES, _MOST_TEXTS = 256 << 10, 1000, 100

#: Characters of a text that are kept.
_LONGEST = 300

_UNITS = ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


def find(root: int, signs: Mapping[str, Any]) -> dict[str, list[tuple[str, list[str]]]]:
    """Return for each sign that is found the paths at which it is, each with the texts that its pattern matched.

    A sign has ``paths`` (with ``*`` in their names) or ``units`` (names of units that are not masked), and at most one
    of ``pattern`` (a regular expression for the file's text), ``masked`` (a link to /dev/null) and ``inert`` (a file
    that is not executable). A sign is not found if a path of ``unless`` exists.
    """
    found = {}
    for name, sign in signs.items():
        if any(_status(root, path) for path in sign.get("unless", ())):
            continue
        paths = [each for path in sign.get("paths", ()) for each in _expand(root, path)]
        for unit in sign.get("units", ()):
            paths += _find_unit(root, unit)
        shown = [(path, texts) for path in paths if (texts := _match(root, path, sign)) is not None]
        if shown:
            found[name] = shown
    return found


def find_owners(root: int, paths: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return user, group and mode of the ``paths`` that exist."""
    known = {path: _status(root, path) for path in paths}
    return {path: (each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for path, each in known.items() if each}


def _expand(root: int, path: str) -> Iterator[str]:
    parent, _, name = path.rpartition("/")
    if "*" not in path:
        yield path
        return
    for directory in _expand(root, parent) if "*" in parent else [parent]:
        # No program of a system reads a file with control characters in its name.
        for entry in _list(root, directory):
            if fnmatch.fnmatchcase(entry, name) and entry.isprintable():
                yield f"{directory}/{entry}"


def _list(root: int, directory: str) -> list[str]:
    try:
        descriptor = beneath.open_beneath(root, directory, os.O_RDONLY | os.O_DIRECTORY)
    except Refused:
        return []
    try:
        return sorted(os.listdir(descriptor))[:_MOST_ENTRIES]
    finally:
        os.close(descriptor)


def _find_unit(root: int, unit: str) -> list[str]:
    if _read_link(root, f"{_UNITS[0]}/{unit}") == "/dev/null":
        return []
    there = [f"{directory}/{unit}" for directory in _UNITS if _status(root, f"{directory}/{unit}")]
    return there[:1]


def _match(root: int, path: str, sign: Mapping[str, Any]) -> list[str] | None:
    if sign.get("masked"):
        return [] if _read_link(root, path) == "/dev/null" else None
    status = _status(root, path)
    if status is None:
        return None
    if sign.get("inert"):
        return [] if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o111 else None
    if not sign.get("pattern"):
        return []
    try:
        descriptor = beneath.open_regular(root, path, _LARGEST)
    except (Refused, OSError):
        return None
    with os.fdopen(descriptor, "rb") as content:
        text = content.read(_LARGEST).decode(errors="replace")
    matches = itertools.islice(re.finditer(sign["pattern"], text, re.MULTILINE), _MOST_TEXTS)
    return [(match[match.lastindex or 0] or "")[:_LONGEST] for match in matches] or None


def _status(root: int, path: str) -> os.stat_result | None:
    """Return the status of a path in the root, of a link itself; None if it does not exist."""
    parent, _, name = path.rpartition("/")
    try:
        directory = beneath.open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except Refused:
        return None
    try:
        return os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(directory)


def _read_link(root: int, path: str) -> str:
    """Return the target of a link; empty if ``path`` is not a link."""
    parent, _, name = path.rpartition("/")
    try:
        directory = beneath.open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except Refused:
        return ""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return ""
    finally:
        os.close(directory)


def search(root: str, signs: Mapping[str, Any], owned: list[str]) -> dict[str, Any]:
    """Return the ``signs`` that are found in the root, and the ``owners`` of the paths ``owned``.

    ``openat2`` says whether the kernel opens paths beneath a directory; a filter of system calls can prevent that.
    """
    with beneath.opened(root) as handle:
        return {
            "openat2": _status(handle, "") is not None,
            "signs": find(handle, signs),
            "owners": find_owners(handle, owned),
        }
