"""Trees of files that go into a root: read, hashed and packed as root's own."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from pipelines.errors import VirtrootError
from pipelines.host import user_file

#: Bytes of a packed tree that are kept in memory.
_IN_MEMORY = 1 << 20


def entries(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (path inside the tree, path here) of everything below ``directory``, sorted; links are not followed."""
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
    """A tree as a tar, in memory while it is small, else in a file without a name; ``digest`` is its sha256.

    It is filled once, by way of `write`, and then read any number of times, by one at a time.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._content = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._content.close)
        self._digest = hashlib.sha256()
        self.write(content)

    def write(self, chunk: bytes) -> int:
        """Add to the tar."""
        self._digest.update(chunk)
        return self._content.write(chunk)

    @property
    def digest(self) -> str:
        """The sha256 of the tar."""
        return self._digest.hexdigest()

    def open(self) -> IO[bytes]:
        """Return the tar as a file, to be read from its beginning."""
        self._content.seek(0)
        return cast("IO[bytes]", self._content)


def pack_file(path: Path) -> Packed:
    """Return one file as a tar, mode 0644; raises `VirtrootError` when it cannot be read."""
    try:
        handle = user_file.open_path(path.absolute())
        try:
            with Path(user_file.named(handle)).open("rb") as content:
                return Packed(archive({path.name: content.read()}))
        finally:
            os.close(handle)
    except OSError as error:
        raise VirtrootError(f"cannot read {path}: {error.strerror}", "paths in a recipe start beside it") from error


def pack(directory: Path, *, ours: bool = False) -> Packed:
    """Return the tree as a tar owned by root, with modes 0755 and 0644 unless a file's own are stricter or special.

    Trees of the checkout (``ours``) have no stricter ones: those are the umask that it was cloned with.
    """
    packed = Packed()
    try:
        # Somebody else's who can write there could put links to any file in the place of what is looked at here.
        handle = user_file.open_path(directory.absolute())
        try:
            _pack(packed, directory, handle, ours=ours)
        finally:
            os.close(handle)
    except OSError as error:
        where = error.filename or directory
        raise VirtrootError(f"cannot read {where}: {error.strerror or error}", "see what changes the tree") from error
    return packed


def _pack(packed: Packed, directory: Path, handle: int, *, ours: bool) -> None:
    # A stream: nothing of it is read again while it is written.
    with tarfile.open(fileobj=cast("IO[bytes]", packed), mode="w|") as tar:
        for name, path in entries(Path(user_file.named(handle))):
            entry = tar.gettarinfo(path, name)
            if entry is None or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                raise VirtrootError(
                    f"{directory / name} is neither file, directory nor link", "take it out of the tree"
                )
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            # Group write comes from the user's umask, not from intent.
            entry.mode &= ~0o022
            if ours:
                entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            opened = os.fdopen(user_file.open_inside(handle, name), "rb") if entry.isreg() else io.BytesIO()
            with opened as content:
                tar.addfile(entry, cast("IO[bytes]", content))
