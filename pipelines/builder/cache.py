"""The stage cache: roots after a stage, in a directory of this machine that programs in a builder cannot access.

An entry is a packed root and a record next to it, both named by the id of the stage. The record is written last and
deleted first: a root without a record is ignored.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.log import warn
from pipelines.target import lock

SCHEMA = 1

_ROOT, _RECORD, _PARTIAL = ".tar.zst", ".json", ".writing-"

_CHUNK = 1 << 20


class Record(BaseModel):
    """The record of a cached root: its sha256 and size in bytes, its stage, and the recipe that it was built for.

    The modification time of the record's file is the time of its last use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=SCHEMA, le=SCHEMA)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    stage: str
    recipe: str


class CachedRoot:
    """A cached root that is being read. All bytes read are hashed, from any thread."""

    def __init__(self, content: IO[bytes], record: Record) -> None:
        self.name = content.name
        self.record = record
        self._content = content
        self._digest = hashlib.sha256()
        self._turn = threading.Lock()

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or fewer at the end."""
        with self._turn:
            chunk = self._content.read(size)
            self._digest.update(chunk)
        return chunk

    def is_whole(self) -> bool:
        """Read the rest, and return whether the content has the recorded digest."""
        try:
            while self.read(_CHUNK):
                pass
        except OSError:
            return False
        return self._digest.hexdigest() == self.record.sha256


@dataclass
class NewEntry:
    """A root that is being written to the cache. It is not in the cache until it is committed.

    If the root is larger than the cache or the disk, it is given up with a warning, and the build continues.
    """

    identity: str
    stage: str
    recipe: str
    partial: Path
    _content: IO[bytes]
    _limit: int
    _size: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    given_up: bool = False

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        if self.given_up:
            return
        self._size += len(chunk)
        self._digest.update(chunk)
        if self._size > self._limit:
            self.give_up(f"larger than cache_size, {self._limit >> 20} MiB")
            return
        try:
            self._content.write(chunk)
        except OSError as error:
            self.give_up(error.strerror or str(error))

    def give_up(self, why: str) -> None:
        """Do not cache the root."""
        if not self.given_up:
            warn(f"stage cache: the root after {self.stage} is not cached: {why}")
        self.given_up = True
        # Free its disk space at once.
        with suppress(OSError):
            os.truncate(self._content.fileno(), 0)

    def flush(self) -> None:
        """Flush the file's buffer."""
        try:
            self._content.flush()
        except OSError as error:
            self.give_up(error.strerror or str(error))

    @property
    def record(self) -> Record:
        """The record of the bytes written."""
        return Record(sha256=self._digest.hexdigest(), size=self._size, stage=self.stage, recipe=self.recipe)


class StageCache:
    """The cached roots in the directory ``home``, at most ``limit`` bytes; 0 disables the cache.

    Any number of builds may use it at once. A lock is held while names change, and an open root stays readable after
    another build has deleted it.
    """

    def __init__(self, home: Path, limit: int) -> None:
        self._home = home / "stages"
        self._limit = limit

    def has(self, identity: str) -> bool:
        """Return whether the root with the id ``identity`` is cached."""
        return bool(self._limit) and self._path(identity, _RECORD).is_file()

    @contextmanager
    def open_root(self, identity: str) -> Iterator[CachedRoot | None]:
        """Yield the cached root with the id ``identity`` and update its time of use; None if it cannot be read."""
        content, record = None, None
        try:
            with self._lock():
                content, record = self._open(identity)
        except OSError as error:
            warn(f"stage cache: {self._home}: {error.strerror}")
        with content or nullcontext():
            yield CachedRoot(content, record) if content and record else None

    def _open(self, identity: str) -> tuple[IO[bytes] | None, Record | None]:
        if not self.has(identity):
            return None, None
        path = self._path(identity, _RECORD)
        try:
            record = Record.model_validate_json(path.read_bytes())
            # Do not follow a link: the cache itself never has one.
            content = os.fdopen(os.open(self._path(identity, _ROOT), os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except (OSError, ValidationError):
            warn(f"stage cache: {path}: invalid record; building the root again")
            self._delete(identity)
            return None, None
        with suppress(OSError):
            os.utime(path)
        return content, record

    @contextmanager
    def create_entry(self, identity: str, stage: str, recipe: str) -> Iterator[NewEntry | None]:
        """Yield a new entry to write a root to; it is deleted at the end of the block unless it was committed.

        Yields None if the cache is disabled or, with a warning, if it cannot be written.
        """
        if not self._limit:
            yield None
            return
        try:
            partial, content = self._new_partial()
        except OSError as error:
            warn(f"stage cache: the root after {stage} is not cached: {self._home}: {error.strerror}")
            yield None
            return
        try:
            yield NewEntry(identity, stage, recipe, partial, content, self._limit)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            # Closing would try again to write what a full disk did not take.
            with suppress(OSError):
                content.close()

    def _new_partial(self) -> tuple[Path, IO[bytes]]:
        with self._lock():
            self._clear_partials()
            partial = self._home / f"{_PARTIAL}{secrets.token_hex(8)}"
            # Mode 0600 with any umask: a root has secrets, such as /etc/shadow.
            content = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            lock.claim(content)
        return partial, content

    def commit(self, new_entry: NewEntry) -> None:
        """Give a complete root its final name; delete the least recently used ones if the cache is full."""
        new_entry.flush()
        if new_entry.given_up:
            return
        record = new_entry.record
        try:
            with self._lock():
                self._evict(record.size)
                # Leave space for the artifact, which is packed to the same disk.
                if shutil.disk_usage(self._home).free < record.size:
                    new_entry.give_up("too little disk space would be left")
                    return
                described = self._path(new_entry.identity, f"{_RECORD}{_PARTIAL}")
                described.write_text(record.model_dump_json() + "\n", encoding="utf-8")
                self._path(new_entry.identity, _RECORD).unlink(missing_ok=True)
                new_entry.partial.replace(self._path(new_entry.identity, _ROOT))
                described.replace(self._path(new_entry.identity, _RECORD))
        except OSError as error:
            new_entry.give_up(error.strerror or str(error))

    def forget(self, identity: str) -> None:
        """Delete the cached root with the id ``identity``."""
        with suppress(OSError), self._lock():
            self._delete(identity)

    def clear(self) -> int:
        """Delete all cached roots and the leftovers of killed builds; return the number of bytes freed.

        A root that a build is writing is not deleted. One that a build is reading stays readable for it.
        """
        if not self._home.is_dir():
            return 0
        try:
            with self._lock():
                freed = self._clear_partials()
                for path in self._home.glob(f"*{_ROOT}"):
                    freed += path.lstat().st_size
                    self._delete(path.name.removesuffix(_ROOT))
                for path in self._home.glob(f"*{_RECORD}*"):
                    path.unlink()
        except OSError as error:
            raise VirtrootError(
                f"cannot clear {self._home}: {error.strerror}", "check its owner and the processes that use it"
            ) from error
        return freed

    def size(self) -> int:
        """Return the size of the cached roots in bytes."""
        return sum(path.lstat().st_size for path in self._home.glob(f"*{_ROOT}"))

    def _evict(self, size: int) -> None:
        """Delete the least recently used roots, until ``size`` more bytes are within the limit."""
        kept = sorted(self._home.glob(f"*{_ROOT}"), key=self._get_last_use)
        total = size + sum(path.lstat().st_size for path in kept)
        for path in kept:
            if total <= self._limit:
                return
            total -= path.lstat().st_size
            self._delete(path.name.removesuffix(_ROOT))

    def _get_last_use(self, root: Path) -> float:
        try:
            return self._path(root.name.removesuffix(_ROOT), _RECORD).stat().st_mtime
        except OSError:
            return 0.0

    def _clear_partials(self) -> int:
        """Remove the partial roots of killed builds, and return their size; a running build holds a lock on its own."""
        freed = 0
        for stale in self._home.glob(f"{_PARTIAL}*"):
            with suppress(OSError), stale.open("rb") as handle:
                if lock.claim(handle):
                    freed += stale.stat().st_size
                    stale.unlink()
        return freed

    def _delete(self, identity: str) -> None:
        for path in (self._path(identity, _RECORD), self._path(identity, _ROOT)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _path(self, identity: str, suffix: str) -> Path:
        return self._home / f"{identity}{suffix}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        private.make_directory(self._home)
        with lock.wait_for(self._home / ".lock"):
            yield
