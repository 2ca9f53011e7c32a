"""Gives a guest another root: root, boot directory and domain change together, or nothing changes.

The new root lies in a directory of the pool as ``root``. ``domain.xml`` next to it is the guest's definition with that
root, and ``next`` describes the root that the guest has now. Afterwards the old root lies there, and ``about``
describes it.

The roots are exchanged in one step. What is left to do then is in the journal, so that the next task does it if the
machine goes down in between. A swap whose exchange has not happened is given up then, since months can have passed. A
token, an empty file in the new root, tells whether the exchange has happened.

libvirt's hook refuses to start the guest while there is a journal. A start that passed the hook before that is found by
asking for the domain's state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import exchange, journal
from .errors import Refused
from .exchange import flush
from .journal import Journal, delete_files, flush_file_system, make_file, rename

_TOKEN = re.compile(r"\.virtroot-[0-9a-f]{16}")


def begin(path: str, directory: str, final: str, root: str, boot: str, partial_boot: str) -> None:
    """Write the journal ``path`` of a swap of ``root`` with the root in ``directory``.

    ``directory`` gets the name ``final`` then. ``partial_boot`` is the boot directory for the new root.
    All of it is on the disk before the journal is.
    """
    journal.ignore_signals()
    token = journal.new_token()
    with journal.create(path) as log:
        # A swap that was killed before it wrote its journal can have left a token.
        for each in os.scandir(f"{directory}/root"):
            if _TOKEN.fullmatch(each.name) and _is_empty_file(each):
                os.unlink(each.path)
        for place in (f"{directory}/root", partial_boot):
            make_file(f"{place}/{token}")
            flush_file_system(place)
        paths = {"directory": directory, "final": final, "root": root, "boot": boot, "partial_boot": partial_boot}
        log.write({**paths, "token": token})


def finish(path: str, definitions: str, domain: str, virsh: Sequence[str], *, may_exchange: bool) -> None:
    """Do what is left of the swap in the journal ``path``; return if there is none.

    With ``may_exchange`` the roots are exchanged if they are not yet; otherwise such a swap is given up. ``domain`` is
    the UUID of the domain, ``definitions`` the directory in which libvirt keeps definitions. Raises `Refused` if the
    guest runs, if libvirt does not accept the definition, or if the roots cannot be told apart.
    """
    journal.ignore_signals()
    with journal.open_existing(path) as log:
        entries = None if log is None else _read(path)
        if log is None or entries is None:
            if log is not None:
                log.delete()
            if may_exchange:
                raise Refused(f"the journal of the swap is missing: {path}")
            return
        swap = _Swap(log, entries, definitions, domain, virsh)
        if "done" in entries:
            swap.forget()
        elif "rejected" in entries:
            swap.undo()
        else:
            swap.finish(may_exchange=may_exchange)


def find_pending(path: str) -> dict[str, Any] | None:
    """Return what is known of the swap in the journal ``path``; None if there is none.

    ``directory`` holds the other root, ``coming`` describes the new root (None if no definition is left to be given to
    libvirt), and ``boot`` is the new root's boot directory if it still has its hidden name, empty otherwise.
    """
    if not os.path.exists(path):
        return None
    entries = _read(path) or {}
    directory, partial_boot = entries.get("directory", ""), entries.get("partial_boot", "")
    coming = None
    if directory and os.path.isfile(f"{directory}/domain.xml"):
        with suppress(OSError, ValueError), open(f"{directory}/coming", encoding="utf-8") as file:
            coming = json.load(file)
    has_token = bool(entries.get("token")) and os.path.isfile(f"{partial_boot}/{entries['token']}")
    return {"directory": directory, "coming": coming, "boot": partial_boot if has_token else ""}


def _read(path: str) -> dict[str, Any] | None:
    entries = journal.read(path)
    if entries is not None:
        return entries
    words: dict[str, Any] = journal.read_words(path)
    return words if "end" in words else None


def _is_empty_file(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


class _Swap:
    """A swap whose journal is locked."""

    def __init__(
        self, log: Journal, entries: Mapping[str, Any], definitions: str, domain: str, virsh: Sequence[str]
    ) -> None:
        self._log = log
        self._directory, self._final = entries["directory"], entries["final"]
        self._root, self._boot, self._partial_boot = entries["root"], entries["boot"], entries["partial_boot"]
        self._other_root = f"{self._directory}/root"
        self._token = entries.get("token", "")
        # The oldest versions wrote device and inode of the new root and of its boot directory.
        self._is_root, self._is_boot = entries.get("is_root", ""), entries.get("is_boot", "")
        self._definitions, self._domain, self._virsh = definitions, domain, virsh

    def finish(self, *, may_exchange: bool) -> None:
        exchange.finish(self._other_root, self._root)
        exchange.finish(self._partial_boot, self._boot)
        if self._is_in(self._other_root, self._root, self._is_root):
            if not may_exchange:
                self.forget()
                return
            self._exchange_roots()
        elif not self._is_in(self._root, self._other_root, self._is_root):
            raise Refused(
                f"neither {self._root} nor {self._other_root} is certainly the root that was prepared; nothing was "
                f"changed; put the right one at {self._root}, then delete {self._log.path}"
            )
        if os.path.isfile(f"{self._directory}/domain.xml"):
            self._define(is_new=may_exchange)
        if os.path.isdir(f"{self._directory}/next"):
            _delete_tree(f"{self._directory}/about")
            rename(f"{self._directory}/next", f"{self._directory}/about")
        if self._directory != self._final and os.path.isdir(self._directory):
            self._rename_to_final()
        _delete_tree(self._partial_boot)
        for parent in {os.path.dirname(each) for each in (self._final, self._root, self._boot)}:
            flush(parent)
        self.forget()

    def forget(self) -> None:
        """Delete the journal and the tokens. Without ``done``, a journal with no token left could not be understood."""
        with suppress(OSError):
            self._log.write({"done": True})
        if self._token:
            places = (self._root, self._boot, f"{self._directory}/root", f"{self._final}/root", self._partial_boot)
            delete_files(*(f"{place}/{self._token}" for place in places))
        self._log.delete()

    def _is_new(self, path: str, identity: str) -> bool:
        if self._token:
            return os.path.isfile(f"{path}/{self._token}")
        try:
            status = os.stat(path)
        except OSError:
            return False
        return f"{status.st_dev} {status.st_ino}" == identity

    def _is_in(self, one: str, other: str, identity: str) -> bool:
        return self._is_new(one, identity) and not self._is_new(other, identity)

    def _exchange_roots(self) -> None:
        if journal.state(self._virsh, self._domain) != "shut off":
            self._refuse_running()
        exchange.exchange(self._other_root, self._root)
        if journal.state(self._virsh, self._domain) != "shut off":
            # A start that had passed the hook before the journal was there.
            exchange.exchange(self._other_root, self._root)
            self._refuse_running()

    def _refuse_running(self) -> None:
        self.forget()
        raise Refused("the guest is running")

    def _define(self, *, is_new: bool) -> None:
        """Exchange the boot directories and define the domain; if libvirt does not accept that, undo the swap."""
        if self._is_in(self._partial_boot, self._boot, self._is_boot):
            exchange.exchange(self._partial_boot, self._boot)
        if journal.virsh([*self._virsh, "define", "--validate", f"{self._directory}/domain.xml"]):
            if os.path.isdir(self._definitions):
                flush(self._definitions)
            delete_files(f"{self._directory}/domain.xml", f"{self._directory}/coming")
            return
        if not is_new and journal.state(self._virsh, self._domain) != "shut off":
            raise Refused("libvirt does not accept the definition")
        if is_new:
            self._exchange_back()
            self.forget()
            raise Refused("libvirt does not accept the definition")
        self._log.write({"rejected": True})
        self.undo()
        raise Refused(f"libvirt does not accept the definition; the new root is kept as {self._final}")

    def undo(self) -> None:
        """Undo a swap that libvirt does not accept after a crash. The guest can have run on the new root: keep it."""
        if not os.path.isdir(self._directory) and os.path.isdir(self._final):
            self._directory, self._other_root = self._final, f"{self._final}/root"
        self._exchange_back()
        _delete_tree(f"{self._directory}/next")
        delete_files(f"{self._directory}/domain.xml", f"{self._directory}/coming")
        if self._directory != self._final:
            self._rename_to_final()
        flush(os.path.dirname(self._final))
        self.forget()

    def _exchange_back(self) -> None:
        if self._is_in(self._boot, self._partial_boot, self._is_boot):
            exchange.exchange(self._partial_boot, self._boot)
        if self._is_in(self._root, self._other_root, self._is_root):
            exchange.exchange(self._other_root, self._root)

    def _rename_to_final(self) -> None:
        parent = os.path.dirname(self._final)
        if not os.path.isdir(parent):
            os.makedirs(parent, 0o700)
        rename(self._directory, self._final)
        self._directory = self._final
        self._other_root = f"{self._final}/root"


def _delete_tree(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
