"""The stage cache: roots as they were after a stage, on this machine, where nothing that runs in a builder reaches.

An entry is a packed root and a record beside it, both called after the id of the stage. The record comes last and goes
first: without it the root counts as nothing.
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
    """What is known of a kept root: its sha256 and size in bytes, its stage, and the recipe that it was made for.

    When it was last used is the time of the record's file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=SCHEMA, le=SCHEMA)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    stage: str
    recipe: str


class Kept:
    """A kept root that is being read; what was read of it, by whomever, is hashed on the way."""

    def __init__(self, content: IO[bytes], record: Record) -> None:
        self.name = content.name
        self.record = record
        self._content = content
        self._digest = hashlib.sha256()
        self._turn = threading.Lock()

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, fewer at the end."""
        with self._turn:
            chunk = self._content.read(size)
            self._digest.update(chunk)
        return chunk

    def is_whole(self) -> bool:
        """Read what is left, and say whether all of it is what was kept."""
        try:
            while self.read(_CHUNK):
                pass
        except OSError:
            return False
        return self._digest.hexdigest() == self.record.sha256


@dataclass
class Keeping:
    """A root that is being written to the cache: what it has so far counts for nothing until it is committed.

    A root that does not fit, or that the disk has no room for, is given up with a warning, and the build goes on.
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
        """Take the next bytes."""
        if self.given_up:
            return
        self._size += len(chunk)
        self._digest.update(chunk)
        if self._size > self._limit:
            self.give_up(f"it has more than cache_size, {self._limit >> 20} MiB")
            return
        try:
            self._content.write(chunk)
        except OSError as error:
            self.give_up(error.strerror or str(error))

    def give_up(self, why: str) -> None:
        """Leave the root out of the cache."""
        if not self.given_up:
            warn(f"the root after {self.stage} is not kept for later builds: {why}")
        self.given_up = True
        # What it took of the disk is free at once.
        with suppress(OSError):
            os.truncate(self._content.fileno(), 0)

    def flush(self) -> None:
        """Make sure that all of it is with the operating system."""
        try:
            self._content.flush()
        except OSError as error:
            self.give_up(error.strerror or str(error))

    @property
    def record(self) -> Record:
        """The record of what was written."""
        return Record(sha256=self._digest.hexdigest(), size=self._size, stage=self.stage, recipe=self.recipe)


class StageCache:
    """The kept roots in the directory ``home``, ``limit`` bytes of them at most; 0 keeps none.

    Any number of builds may use it at once: a lock is held for the moments in which names change, and what one reads
    stays readable when another takes its name away.
    """

    def __init__(self, home: Path, limit: int) -> None:
        self._home = home / "stages"
        self._limit = limit

    def has(self, identity: str) -> bool:
        """Say whether the root of that id is kept."""
        return bool(self._limit) and self._path(identity, _RECORD).is_file()

    @contextmanager
    def reading(self, identity: str) -> Iterator[Kept | None]:
        """Yield the kept root of that id, which counts as used now; None where there is none that can be read."""
        content, record = None, None
        try:
            with self._locked():
                content, record = self._open(identity)
        except OSError as error:
            warn(f"{self._home} cannot be used: {error.strerror}")
        with content or nullcontext():
            yield Kept(content, record) if content and record else None

    def _open(self, identity: str) -> tuple[IO[bytes] | None, Record | None]:
        if not self.has(identity):
            return None, None
        path = self._path(identity, _RECORD)
        try:
            record = Record.model_validate_json(path.read_bytes())
            # What is no file of ours is not followed to one.
            content = os.fdopen(os.open(self._path(identity, _ROOT), os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except (OSError, ValidationError):
            warn(f"{path} is not the record of a kept root; that is made anew")
            self._delete(identity)
            return None, None
        with suppress(OSError):
            os.utime(path)
        return content, record

    @contextmanager
    def keeping(self, identity: str, stage: str, recipe: str) -> Iterator[Keeping | None]:
        """Yield what takes a root's bytes; whatever was not committed when the block ends is gone.

        None where nothing is to be kept, or where the cache cannot be written, which is warned of.
        """
        if not self._limit:
            yield None
            return
        try:
            partial, content = self._new_partial()
        except OSError as error:
            warn(f"the root after {stage} is not kept for later builds: {self._home}: {error.strerror}")
            yield None
            return
        try:
            yield Keeping(identity, stage, recipe, partial, content, self._limit)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            # What a full disk did not take would be tried again.
            with suppress(OSError):
                content.close()

    def _new_partial(self) -> tuple[Path, IO[bytes]]:
        with self._locked():
            self._clear_partials()
            partial = self._home / f"{_PARTIAL}{secrets.token_hex(8)}"
            # Whatever the umask: a root has secrets, as its /etc/shadow.
            content = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            lock.claim(content)
        return partial, content

    def commit(self, keeping: Keeping) -> None:
        """Give a root that was written whole its final name, in place of others where there is no room for it."""
        keeping.flush()
        if keeping.given_up:
            return
        record = keeping.record
        try:
            with self._locked():
                self._make_room(record.size)
                # The artifact comes first, and is packed into the same disk.
                if shutil.disk_usage(self._home).free < record.size:
                    keeping.give_up("that would leave too little of the disk")
                    return
                described = self._path(keeping.identity, f"{_RECORD}{_PARTIAL}")
                described.write_text(record.model_dump_json() + "\n", encoding="utf-8")
                self._path(keeping.identity, _RECORD).unlink(missing_ok=True)
                keeping.partial.replace(self._path(keeping.identity, _ROOT))
                described.replace(self._path(keeping.identity, _RECORD))
        except OSError as error:
            keeping.give_up(error.strerror or str(error))

    def forget(self, identity: str) -> None:
        """Delete the kept root of that id."""
        with suppress(OSError), self._locked():
            self._delete(identity)

    def clear(self) -> int:
        """Delete every kept root, and what killed builds left; return how many bytes were freed.

        What a build is writing just now is left to it; what it is reading it reads to the end.
        """
        if not self._home.is_dir():
            return 0
        try:
            with self._locked():
                freed = self._clear_partials()
                for path in self._home.glob(f"*{_ROOT}"):
                    freed += path.lstat().st_size
                    self._delete(path.name.removesuffix(_ROOT))
                for path in self._home.glob(f"*{_RECORD}*"):
                    path.unlink()
        except OSError as error:
            raise VirtrootError(
                f"cannot clear {self._home}: {error.strerror}", "see who owns it, and who uses it"
            ) from error
        return freed

    def size(self) -> int:
        """Return how many bytes the kept roots have."""
        return sum(path.lstat().st_size for path in self._home.glob(f"*{_ROOT}"))

    def _make_room(self, size: int) -> None:
        """Delete the roots that were not used for longest, until ``size`` bytes more are within the limit."""
        kept = sorted(self._home.glob(f"*{_ROOT}"), key=self._last_used)
        total = size + sum(path.lstat().st_size for path in kept)
        for path in kept:
            if total <= self._limit:
                return
            total -= path.lstat().st_size
            self._delete(path.name.removesuffix(_ROOT))

    def _last_used(self, root: Path) -> float:
        try:
            return self._path(root.name.removesuffix(_ROOT), _RECORD).stat().st_mtime
        except OSError:
            return 0.0

    def _clear_partials(self) -> int:
        """Remove what killed builds left: what one at work writes, it has locked."""
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
    def _locked(self) -> Iterator[None]:
        private.make_directory(self._home)
        with lock.wait_for(self._home / ".lock"):
            yield
