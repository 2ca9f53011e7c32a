"""The commands whose input or output is a stream, and not JSON."""

from __future__ import annotations

import sys

from . import before_start, guest_files

_CHUNK = 1 << 20


def read_file(root: str, path: str, largest: int, *, if_exists: bool = False) -> None:
    """Write a file of a guest's root to standard output; see `guest_files.read` and `guest_files.read_if_exists`."""
    read = guest_files.read_if_exists if if_exists else guest_files.read
    sys.stdout.buffer.write(read(root, path, largest))


def write_file(root: str, path: str, mode: int, *, over_files: bool = False) -> None:
    """Write standard input to a file of a guest's root; see `guest_files.write`."""
    chunks = iter(lambda: sys.stdin.buffer.read(_CHUNK), b"")
    guest_files.write(root, path, mode, chunks, over_files=over_files)


def prepare_start() -> None:
    """Prepare the start of the domain on standard input; see `before_start.prepare`."""
    before_start.prepare(sys.stdin.read())
