"""Files and directories that only their owner can read, with any umask, because they contain data of a root."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

#: The modes of private directories and files.
DIRECTORY, FILE = 0o700, 0o600


def make_directory(path: Path) -> None:
    """Create the directory ``path`` if it is missing, and make it private; its parents get modes by the umask."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(DIRECTORY)
    _close(path, DIRECTORY)


def create(path: Path) -> IO[bytes]:
    """Create or truncate the private file ``path``, and return it open for writing."""
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def append(path: Path) -> IO[bytes]:
    """Open the private file ``path`` for appending; create it if it is missing."""
    return os.fdopen(_open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab")


def _open(path: Path, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE)
    # A file of another user keeps its mode; it can be used if it is writable.
    with suppress(PermissionError):
        os.fchmod(handle, FILE)
    return handle


def tighten(directory: Path) -> bool:
    """Make ``directory`` and the files in it private, without following links; return whether a mode was changed."""
    changed = _close(directory, DIRECTORY)
    for path in directory.iterdir():
        if path.is_file() and not path.is_symlink():
            changed = _close(path, FILE) or changed
    return changed


def _close(path: Path, mode: int) -> bool:
    found = stat.S_IMODE(path.stat().st_mode)
    if not found & 0o077:
        return False
    with suppress(PermissionError):
        path.chmod(mode if mode == DIRECTORY else found & ~0o077)
        return True
    return False
