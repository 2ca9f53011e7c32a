"""Packs trees of files for a root as tar, hashed and owned by root."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, cast

from pipelines.errors import VirtrootError
from pipelines.host import user_file

#: The maximum size in bytes of a packed tree in memory.
_IN_MEMORY = 1 << 20


def list_entries(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the path in the tree and the path here of everything below ``directory``, sorted; do not follow links."""
    for path in sorted(directory.rglob("*")):
        yield path.relative_to(directory).as_posix(), path


def archive(files: Mapping[str, bytes]) -> bytes:
    """Make an uncompressed tar of ``files`` (path to content), mode 0644, owned by root, with fixed times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


class Packed:
    """A tree as a tar, in memory if it is small, otherwise in a temporary file; ``digest`` is its sha256.

    It is filled once with `write`, and then read any number of times, by one reader at a time.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._content = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._content.close)
        self._digest = hashlib.sha256()
        self.write(content)

    def write(self, chunk: bytes) -> int:
        """Append to the tar."""
        self._digest.update(chunk)
        return self._content.write(chunk)

    @property
    def digest(self) -> str:
        """The sha256 of the tar."""
        return self._digest.hexdigest()

    def open(self) -> IO[bytes]:
        """Return the tar as a file, positioned at its start."""
        self._content.seek(0)
        return cast("IO[bytes]", self._content)


def pack_file(path: Path) -> Packed:
    """Pack one file with mode 0644. Raises VirtrootError if it cannot be read."""
    try:
        handle = user_file.open_path(path.absolute())
        try:
            with Path(user_file.get_path(handle)).open("rb") as content:
                return Packed(archive({path.name: content.read()}))
        finally:
            os.close(handle)
    except OSError as error:
        raise VirtrootError(
            f"cannot read {path}: {error.strerror}", "use a path relative to the recipe's directory"
        ) from error


def pack(directory: Path, *, ours: bool = False, links: Mapping[str, str] | None = None) -> Packed:
    """Pack a tree, owned by root, with the files' modes without write access for group and others.

    For trees of the checkout (``ours``) the modes are 0755 and 0644: stricter ones would come from the umask of the
    clone. ``links`` are symbolic links to add, path to target. Raises VirtrootError if the tree cannot be read, or has
    other entries than files, directories and links.
    """
    packed = Packed()
    try:
        # Another user with write access to the tree could replace files by links to any file while it is read.
        handle = user_file.open_path(directory.absolute())
        try:
            _pack(packed, directory, handle, links or {}, ours=ours)
        finally:
            os.close(handle)
    except OSError as error:
        where = error.filename or directory
        raise VirtrootError(
            f"cannot read {where}: {error.strerror or error}", "check which process changes the tree"
        ) from error
    return packed


def _make_link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    return entry


def _make_directory(path: PurePosixPath) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry


def _pack(packed: Packed, directory: Path, handle: int, links: Mapping[str, str], *, ours: bool) -> None:
    # Write the tar as a stream, because `Packed` cannot be read while it is written.
    with tarfile.open(fileobj=cast("IO[bytes]", packed), mode="w|") as tar:
        added = {name: _make_link(name, target) for name, target in links.items()}
        added |= {str(parent): _make_directory(parent) for name in links for parent in PurePosixPath(name).parents[:-1]}
        there = dict(list_entries(Path(user_file.get_path(handle))))
        for name in sorted({*there, *added}, key=PurePosixPath):
            entry = tar.gettarinfo(there[name], name) if name in there else added[name]
            if entry is None or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                raise VirtrootError(f"{directory / name}: not a file, directory or link", "remove it from the tree")
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            # Write access for the group comes from the user's umask, and is not intended.
            entry.mode &= ~0o022
            if ours:
                entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            opened = os.fdopen(user_file.open_inside(handle, name), "rb") if entry.isreg() else io.BytesIO()
            with opened as content:
                tar.addfile(entry, cast("IO[bytes]", content))
