"""Removes a guest: its directories lose their names and its domain is undefined, or nothing changes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import journal
from .errors import Refused
from .exchange import flush
from .journal import delete_files, rename


def withdraw(path: str, renames: Sequence[Sequence[str]], domain: str, definitions: str, virsh: Sequence[str]) -> None:
    """Rename each existing directory in ``renames`` (name, hidden name) and undefine ``domain``.

    ``path`` is the journal, ``domain`` a UUID. After the renames the guest cannot start any more, since its kernel has
    no name; so its state is checked then. Raises `Refused`, with all names restored, if the guest runs or libvirt does
    not undefine it.
    """
    journal.ignore_signals()
    with journal.create(path) as log:
        log.write({"renames": renames})
        try:
            for name, hidden in renames:
                if os.path.isdir(name):
                    rename(name, hidden)
            for parent in {os.path.dirname(name) for name, _ in renames}:
                flush(parent)
            if journal.state(virsh, domain) != "shut off":
                raise Refused("the guest is running")
            if not journal.virsh([*virsh, "undefine", domain]):
                raise Refused("libvirt does not undefine the domain")
        except (Refused, OSError):
            _restore(renames)
            log.delete()
            raise
        if os.path.isdir(definitions):
            flush(definitions)
        log.delete()


def undo(path: str) -> None:
    """Restore the names that an interrupted removal has taken from a guest whose domain is still defined."""
    if not os.path.exists(path):
        return
    entries = journal.read(path)
    renames = entries["renames"] if entries else _former_renames(path)
    _restore(renames)
    delete_files(path)
    flush(os.path.dirname(path))


def _restore(renames: Sequence[Sequence[str]]) -> None:
    """Undo renames, and flush that. A name that another directory has by now is left alone."""
    for name, hidden in renames:
        if os.path.isdir(hidden) and not os.path.lexists(name):
            rename(hidden, name)
    for parent in {os.path.dirname(name) for name, _ in renames}:
        if os.path.isdir(parent):
            flush(parent)


def _former_renames(path: str) -> list[list[str]]:
    """Return the renames in a journal of a former version: a line for each name, and ``end`` at the end."""
    lines = journal.read_lines(path)
    if lines[-1:] != ["end"]:
        return []
    return [list(pair) for pair in zip(lines[:-1:2], lines[1:-1:2])]
