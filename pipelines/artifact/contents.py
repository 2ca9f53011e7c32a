"""Reads a root's tarball entry by entry, and compares two of them; neither is ever in memory as a whole."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from pipelines.artifact.archive import expand_argv
from pipelines.errors import VirtrootError
from pipelines.host import process

_KINDS: tuple[tuple[str, Callable[[tarfile.TarInfo], bool]], ...] = (
    ("directory", tarfile.TarInfo.isdir),
    ("link", tarfile.TarInfo.issym),
    ("hard link", tarfile.TarInfo.islnk),
    ("file", tarfile.TarInfo.isreg),
    ("device", tarfile.TarInfo.isdev),
)

#: tar's prefixes for extended attributes, including capabilities, and for ACLs.
_ATTRIBUTES = ("SCHILY.xattr.", "SCHILY.acl.")

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file, directory, link or device of a root; ``path`` is relative to it, ``size`` in bytes. Times are ignored."""

    path: str
    kind: str
    size: int
    content: str
    owner: str
    mode: int
    attributes: tuple[tuple[str, str], ...]

    @property
    def sort_key(self) -> list[bytes]:
        """The sort key in a tarball: by directories, and names by their bytes."""
        return [part.encode("utf-8", "surrogateescape") for part in self.path.split("/")]


@dataclass(frozen=True)
class FileChange:
    """An added, removed or changed entry; sizes are in bytes, None if it is missing; ``what`` names the changes."""

    kind: Literal["added", "removed", "changed"]
    path: str
    before: int | None
    after: int | None
    what: str = ""


def find_changes(before: Path, after: Path) -> Iterator[FileChange]:
    """Yield the changes from the tarball ``before`` to ``after``, in their order.

    Contents are compared by digest. Raises VirtrootError for a tarball that cannot be read, or is not sorted as
    virtroot sorts it.
    """
    with ExitStack() as opened:
        ours, theirs = (opened.enter_context(_open_entries(path)) for path in (before, after))
        then, now = next(ours, None), next(theirs, None)
        while then or now:
            if now is None or (then and then.sort_key < now.sort_key):
                if then:
                    yield FileChange("removed", then.path, then.size, None)
                then = next(ours, None)
            elif then is None or now.sort_key < then.sort_key:
                yield FileChange("added", now.path, None, now.size)
                now = next(theirs, None)
            else:
                if what := _describe_change(then, now):
                    yield FileChange("changed", now.path, then.size, now.size, what)
                then, now = next(ours, None), next(theirs, None)


def _describe_change(then: Entry, now: Entry) -> str:
    if then.kind != now.kind:
        return f"{then.kind}, now {now.kind}"
    words = [
        "content" if then.content != now.content else "",
        "owner" if then.owner != now.owner else "",
        f"mode {then.mode:04o}, now {now.mode:04o}" if then.mode != now.mode else "",
        "attributes" if then.attributes != now.attributes else "",
    ]
    return ", ".join(filter(None, words))


@contextmanager
def _open_entries(path: Path) -> Iterator[Iterator[Entry]]:
    if not path.is_file():
        raise VirtrootError(f"{path}: no such tarball", "build the artifact again")
    with process.open_output(expand_argv(str(path))) as stream:
        yield _read_entries(path, stream)


def _read_entries(path: Path, stream: IO[bytes]) -> Iterator[Entry]:
    last: list[bytes] = []
    try:
        with tarfile.open(mode="r|", fileobj=stream, encoding="utf-8", errors="surrogateescape") as tar:
            while info := tar.next():
                # tarfile would keep all members in memory.
                cast("Any", tar).members.clear()
                entry = _make_entry(tar, info)
                if last and entry.sort_key <= last:
                    raise VirtrootError(f"{path}: tarball is not sorted", "build the artifact again")
                last = entry.sort_key
                yield entry
        while stream.read(_CHUNK):
            pass  # zstd checks its checksum at the end
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise VirtrootError(f"{path}: damaged: {error}", "build the artifact again, or copy it again") from error


def _make_entry(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Entry:
    content = info.linkname
    if info.isreg():
        digest = hashlib.sha256()
        with cast("IO[bytes]", tar.extractfile(info)) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        content = digest.hexdigest()
    elif info.isdev():
        content = f"{info.type!r} {info.devmajor}:{info.devminor}"
    return Entry(
        path=info.name.removeprefix("./"),
        kind=next((kind for kind, is_one in _KINDS if is_one(info)), "other"),
        size=info.size,
        content=content,
        owner=f"{info.uid}:{info.gid}",
        mode=info.mode,
        attributes=tuple(sorted(each for each in info.pax_headers.items() if each[0].startswith(_ATTRIBUTES))),
    )
