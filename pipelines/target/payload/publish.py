"""Publishes a new guest: its root and boot directory get their names and its domain is defined, or nothing changes."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - this runs on libvirt's host
from collections.abc import Sequence

from . import journal
from .errors import Refused
from .exchange import flush
from .journal import delete_files, flush_file_system, make_file, rename


def publish(
    path: str,
    partial_root: str,
    root: str,
    partial_boot: str,
    boot: str,
    definitions: str,
    define: Sequence[str],
    definition: str,
) -> None:
    """Rename ``partial_root`` and ``partial_boot``, then define the domain with the command ``define``.

    ``path`` is the journal. It names a token, a file that marks both directories until the domain is defined.
    ``definitions`` is the directory in which libvirt keeps definitions; a domain must not be on the disk before its
    root is. Raises `Refused`, with the former names restored, if libvirt does not accept the definition.
    """
    journal.ignore_signals()
    token = journal.new_token()
    with journal.create(path) as log:
        for directory in (partial_root, partial_boot):
            make_file(f"{directory}/{token}")
            flush_file_system(directory)
        log.write({"token": token})
        rename(partial_root, root)
        try:
            rename(partial_boot, boot)
        except OSError:
            rename(root, partial_root)
            log.delete()
            raise
        for parent in {os.path.dirname(root), os.path.dirname(boot)}:
            flush(parent)
        if not journal.virsh(define, definition.encode()):
            rename(boot, partial_boot)
            rename(root, partial_root)
            log.delete()
            raise Refused("libvirt does not accept the definition")
        if os.path.isdir(definitions):
            flush(definitions)
        delete_files(f"{root}/{token}", f"{boot}/{token}")
        log.delete()


def find_published(path: str, root: str, boot: str) -> list[str]:
    """Return which of ``root`` and ``boot`` an interrupted publication has renamed, and still are what it renamed."""
    if not os.path.exists(path):
        return []
    token = _read_token(path)
    places = {"root": root, "boot": boot}
    if token:
        return [name for name, directory in places.items() if os.path.lexists(f"{directory}/{token}")]
    # The oldest versions wrote device, inode and time of birth of what they had renamed.
    words = journal.read_words(path)
    return [name for name, directory in places.items() if name in words and _identity(directory) == words[name]]


def end(path: str, root: str, boot: str) -> None:
    """Delete the journal of a guest that is defined, and the token.

    Otherwise, if someone undefines the domain, the next install would take its root for a leftover and delete it.
    """
    if os.path.exists(path):
        token = _read_token(path)
        if token:
            delete_files(f"{root}/{token}", f"{boot}/{token}")
        delete_files(path)


def _read_token(path: str) -> str:
    return str((journal.read(path) or journal.read_words(path)).get("token", ""))


def _identity(directory: str) -> str:
    argv = ["stat", "--format=%d %i %w", "--", directory]
    done = subprocess.run(
        argv, env={**os.environ, "TZ": "UTC"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return done.stdout.decode().strip("\n")
