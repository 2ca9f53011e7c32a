"""Publishes files and directories so that they are complete after a power loss.

A file system may write a new name to the disk long before the data. After a power loss the file would have its name and
be empty. So the data is flushed first, then the file is renamed, then the directory is flushed; see fsync(2) and https://lwn.net/Articles/457667/.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.target.target import Target

# `sync FILE` is fsync(2) of that file or directory. The input ends early if its sender is killed.
_PUT = """
umask 077
partial=$1.partial
cat > "$partial"
[ "$(stat --format=%s "$partial")" = "$3" ]
chmod "$2" "$partial"
sync "$partial"
mv -T -- "$partial" "$1"
sync "${1%/*}"
"""

# A tree has too many files to flush each of them.
_RENAME = """
sync --file-system "$1"
mv -T -- "$1" "$2"
sync "${2%/*}"
"""


def publish(partial: Path, path: Path) -> None:
    """Flush the file, directory or symbolic link ``partial``, rename it to ``path``, and flush the rename.

    Both are in the same directory or at least on the same file system. Raises OSError.
    """
    _flush_tree(partial)
    os.replace(partial, path)  # noqa: PTH105 - Path.replace would read as if it moved the target
    flush_directory(path.parent)


def write(path: Path, content: bytes, *, partial: Path | None = None) -> None:
    """Write ``content`` to the file ``path`` in one step, through the file ``partial``; raises OSError.

    Without ``partial`` that is a hidden file in the same directory.
    """
    partial = partial or path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    publish(partial, path)


def flush_directory(directory: Path) -> None:
    """Flush the names in ``directory``; raises OSError."""
    _flush(directory, os.O_RDONLY | os.O_DIRECTORY)


def put(target: Target, path: str, content: bytes, mode: int) -> None:
    """Write ``content`` to the file ``path`` on ``target`` in one step, with ``mode``; raises `VirtrootError`."""
    target.run(["sh", "-ec", _PUT, "put", path, f"{mode:o}", str(len(content))], stdin=content)


def rename(target: Target, partial: str, path: str) -> None:
    """Flush the file system that the directory ``partial`` on ``target`` is on, and rename it to ``path``.

    Raises `VirtrootError`.
    """
    target.run(["sh", "-ec", _RENAME, "rename", partial, path])


def _flush_tree(path: Path) -> None:
    if path.is_symlink():
        return
    if path.is_dir():
        for each in path.iterdir():
            _flush_tree(each)
        flush_directory(path)
    else:
        _flush(path, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
