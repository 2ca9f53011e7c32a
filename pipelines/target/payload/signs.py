#!/usr/bin/env python3
"""Finds signs in a root: files that are there, and text in them. Runs where the root is, with Python's library alone.

Someone else wrote the root. Every path is opened beneath it (see `handover`), no file is read that is not a regular
one, and no more of it than `_LARGEST` bytes.
"""

import fnmatch
import itertools
import json
import os
import re
import stat
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

#: Bytes of one file that are searched, entries of a directory that are looked at, and texts of one file that are kept.
_LARGEST, _MOST_ENTRIES, _MOST_TEXTS = 256 << 10, 1000, 100

#: Characters of a text that are kept.
_LONGEST = 300

_UNITS = ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


def find(handover: types.ModuleType, root: int, signs: Mapping[str, Any]) -> dict[str, list[tuple[str, list[str]]]]:
    """Return for each of ``signs`` that shows the paths that show it, each with the texts that its pattern found.

    A sign has ``paths`` (with ``*`` in their names) or ``units`` (names of units that are not masked), and at most one
    of ``pattern`` (a regular expression for the file's text), ``masked`` (a link to /dev/null) and ``inert`` (a file
    that nobody may execute). It does not show where a path of ``unless`` exists.
    """
    found = {}
    for name, sign in signs.items():
        if any(_status(handover, root, path) for path in sign.get("unless", ())):
            continue
        paths = [each for path in sign.get("paths", ()) for each in _expanded(handover, root, path)]
        for unit in sign.get("units", ()):
            paths += _unit(handover, root, unit)
        shown = [(path, texts) for path in paths if (texts := _texts(handover, root, path, sign)) is not None]
        if shown:
            found[name] = shown
    return found


def owners(handover: types.ModuleType, root: int, paths: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return user, group and mode of those of the ``paths`` that exist."""
    known = {path: _status(handover, root, path) for path in paths}
    return {path: (each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for path, each in known.items() if each}


def _expanded(handover: types.ModuleType, root: int, path: str) -> Iterator[str]:
    parent, _, name = path.rpartition("/")
    if "*" not in path:
        yield path
        return
    for directory in _expanded(handover, root, parent) if "*" in parent else [parent]:
        # A name with control characters is never one that a program of the system reads.
        for entry in _entries(handover, root, directory):
            if fnmatch.fnmatchcase(entry, name) and entry.isprintable():
                yield f"{directory}/{entry}"


def _entries(handover: types.ModuleType, root: int, directory: str) -> list[str]:
    try:
        descriptor = handover.open_beneath(root, directory, os.O_RDONLY | os.O_DIRECTORY)
    except handover.Refused:
        return []
    try:
        return sorted(os.listdir(descriptor))[:_MOST_ENTRIES]
    finally:
        os.close(descriptor)


def _unit(handover: types.ModuleType, root: int, unit: str) -> list[str]:
    if _link(handover, root, f"{_UNITS[0]}/{unit}") == "/dev/null":
        return []
    there = [f"{directory}/{unit}" for directory in _UNITS if _status(handover, root, f"{directory}/{unit}")]
    return there[:1]


def _texts(handover: types.ModuleType, root: int, path: str, sign: Mapping[str, Any]) -> list[str] | None:
    if sign.get("masked"):
        return [] if _link(handover, root, path) == "/dev/null" else None
    status = _status(handover, root, path)
    if status is None:
        return None
    if sign.get("inert"):
        return [] if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o111 else None
    if not sign.get("pattern"):
        return []
    try:
        descriptor = handover.open_regular(root, path, _LARGEST)
    except (handover.Refused, OSError):
        return None
    with os.fdopen(descriptor, "rb") as content:
        text = content.read(_LARGEST).decode(errors="replace")
    matches = itertools.islice(re.finditer(sign["pattern"], text, re.MULTILINE), _MOST_TEXTS)
    return [(match[match.lastindex or 0] or "")[:_LONGEST] for match in matches] or None


def _status(handover: types.ModuleType, root: int, path: str) -> os.stat_result | None:
    """Return what is known of a path, whose last link is not followed; None where it does not exist in the root."""
    parent, _, name = path.rpartition("/")
    try:
        directory = handover.open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except handover.Refused:
        return None
    try:
        return os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(directory)


def _link(handover: types.ModuleType, root: int, path: str) -> str:
    """Return the text of a link; empty where there is none."""
    parent, _, name = path.rpartition("/")
    try:
        directory = handover.open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except handover.Refused:
        return ""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return ""
    finally:
        os.close(directory)


def main() -> None:
    """Answer the JSON on standard input with JSON; ``openat2`` says whether paths can be opened beneath the root."""
    asked = json.load(sys.stdin)
    handover = types.ModuleType("handover")
    exec(asked["handover"], handover.__dict__)  # noqa: S102 - virtroot's own, sent along
    root = os.open(asked["root"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    answer = {
        "openat2": _status(handover, root, "") is not None,
        "signs": find(handover, root, asked["signs"]),
        "owners": owners(handover, root, asked["owners"]),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
