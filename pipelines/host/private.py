"""Files and directories that only their owner can read, whatever the umask: what is in them is a root's."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

#: What such a directory and a file in it have.
DIRECTORY, FILE = 0o700, 0o600


def make_directory(path: Path) -> None:
    """Make ``path`` where it is missing, and close it to others; the directories above it are made by the umask."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(DIRECTORY)
    _close(path, DIRECTORY)


def create(path: Path) -> IO[bytes]:
    """Create the file ``path``, or empty it, and return it open for writing."""
    return os.fdopen(_opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def append(path: Path) -> IO[bytes]:
    """Return the file ``path`` open for appending, made where it is missing."""
    return os.fdopen(_opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab")


def _opened(path: Path, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE)
    # Somebody else's stays as it is: a file that can be written is of use all the same.
    with suppress(PermissionError):
        os.fchmod(handle, FILE)
    return handle


def tighten(directory: Path) -> bool:
    """Close ``directory`` and the files in it to others, following no link; say whether any of it was open."""
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
