"""Journals: the steps of a change of several names, written before the first step, so that a crash can be dealt with.

A journal is a file of JSON lines, in the pool next to the guest's root. It exists while the change is under way, and
the process that makes the change has it locked. So a task waits for the process of a task that was killed. Only a crash
of the machine leaves a journal that is not locked; the next task reads it and finishes or undoes the change.

Former versions wrote a word and a value on each line. Their journals are read as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import stat
import subprocess  # noqa: TID251 - this runs on libvirt's host
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .errors import Refused
from .exchange import flush
from .file_lock import try_lock

#: Seconds to wait for the process that has locked a journal.
PATIENCE = 120

_POLL = 0.05


class Journal:
    """An open and locked journal."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self.is_written = False
        self._handle = handle

    def write(self, entry: dict[str, Any]) -> None:
        """Append ``entry`` and flush it to the disk. From then on the change is finished or undone after a crash."""
        left = json.dumps(entry).encode() + b"\n"
        before = os.fstat(self._handle).st_size
        try:
            # On a full disk the first call writes a part without an error.
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, before)
            raise
        flush(os.path.dirname(self.path))
        self.is_written = True

    def delete(self) -> None:
        """Delete the journal. From then on the change counts as finished or undone."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        flush(os.path.dirname(self.path))


@contextmanager
def create(path: str) -> Iterator[Journal]:
    """Create the journal ``path``, for root alone, and hold its lock. An error before the first entry deletes it."""
    with _locked(path, os.O_CREAT) as handle:
        os.ftruncate(handle, 0)
        created = Journal(path, handle)
        try:
            yield created
        except BaseException:
            if not created.is_written:
                created.delete()
            raise


@contextmanager
def open_existing(path: str) -> Iterator[Journal | None]:
    """Hold the lock of the journal ``path``; yield None if it does not exist, or if its process deletes it."""
    try:
        with _locked(path) as handle:
            yield Journal(path, handle) if os.path.exists(path) else None
    except FileNotFoundError:
        yield None


def read(path: str) -> dict[str, Any] | None:
    """Return the entries of a journal as one dict; None if the journal is not complete: its change has not begun."""
    lines = read_lines(path)
    if not lines[:1] or not lines[0].startswith("{"):
        return None
    entries: dict[str, Any] = {}
    for line in lines:
        entries.update(_parse(path, line))
    return entries


def read_words(path: str) -> dict[str, Any]:
    """Return the words and values of a journal of a former version; empty for a journal of this version.

    This version can have appended entries of its own.
    """
    lines = read_lines(path)
    words: dict[str, Any] = {}
    if lines[:1] and lines[0].startswith("{"):
        return words
    for line in lines:
        if line.startswith("{"):
            words.update(_parse(path, line))
        else:
            word, _, value = line.partition(" ")
            words[word] = value
    return words


def read_lines(path: str) -> list[str]:
    """Return the complete lines of a journal; raises `Refused` if it is not a regular file."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8", errors="surrogateescape") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused(f"{path}: not a regular file")
        return file.read().split("\n")[:-1]


def _parse(path: str, line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise Refused(f"{path} is damaged: {line[:60]!r}; restore the names by hand, then delete it") from error


def wait_for(paths: Sequence[str]) -> None:
    """Wait for the processes that have locked the journals ``paths``; raises `Refused` after `PATIENCE` seconds."""
    for path in paths:
        with suppress(FileNotFoundError), _locked(path):
            pass


def ignore_signals() -> None:
    """Ignore the signals that end a process whose task or terminal goes away: the change has to be all or nothing."""
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)


def new_token() -> str:
    """Return the name of an empty file that marks a directory.

    Device and inode numbers cannot: a device gets another number when it is mounted again, and the directories of btrfs
    snapshots have equal inodes and times of birth.
    """
    return f".virtroot-{secrets.token_hex(8)}"


def make_file(path: str) -> None:
    """Make the empty file ``path``."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def delete_files(*paths: str) -> None:
    """Delete files that exist."""
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)


def flush_file_system(directory: str) -> None:
    """Flush the file system of a directory: after a power loss, no published name may lead to an empty file."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(handle):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    finally:
        os.close(handle)


def rename(source: str, destination: str) -> None:
    """Rename a directory. An existing directory of the new name is not replaced, unless it is empty."""
    os.rename(source, destination)


def virsh(argv: Sequence[str], definition: bytes = b"") -> bool:
    """Run virsh; return whether it succeeded. What it prints goes to standard error, which the user sees."""
    try:
        done = subprocess.run(argv, input=definition, stdout=sys.stderr, check=False, restore_signals=False)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        return False
    return done.returncode == 0


def state(argv: Sequence[str], domain: str) -> str:
    """Return libvirt's word for the state of a domain; empty if it cannot be asked."""
    words = [*argv, "domstate", domain]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        done = subprocess.run(words, stdin=null, stdout=pipe, check=False, restore_signals=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace").strip("\n")


@contextmanager
def _locked(path: str, flags: int = 0) -> Iterator[int]:
    deadline = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        try:
            if try_lock(handle) and _is_at(handle, path):
                yield handle
                return
        finally:
            os.close(handle)
        if time.monotonic() > deadline:
            raise Refused(f"another process has locked {path}; fuser {path} names it")
        time.sleep(_POLL)


def _is_at(handle: int, path: str) -> bool:
    """Return whether an open file still has the name ``path``: the process that had it locked can have deleted it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
