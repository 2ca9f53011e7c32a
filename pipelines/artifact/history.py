"""The history of a recipe: a run record for each nightly run, one JSON document per line, the newest last."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipelines.artifact.difference import Difference
from pipelines.artifact.manifest import StageTime, Verdict
from pipelines.errors import Phase, VirtrootError
from pipelines.log import warn
from pipelines.target import durable, lock
from pipelines.text import one_line, plain, trim

SCHEMA = 1

#: The maximum length of a failure's label, so that it fits into the subject line of a mail.
LABEL_LENGTH = 72

#: How many characters of a failure's text a record keeps: its end, which has the reason.
_MAX_TEXT = 8000

#: How many bytes from the end of a history are read: years of nightly runs with dozens of changed packages each.
_MAX_READ = 4 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(_Frozen):
    """The reason of a failed run: the phase, a label short enough for a mail's subject, and the full text.

    The phase is that of the mirror, of a stage's command, the root's inspection, the guest's boot, an acceptance check,
    or of the engine, libvirt or the output directory.
    """

    where: Phase
    label: str = Field(max_length=LABEL_LENGTH)
    text: str = ""

    @classmethod
    def of(cls, where: Phase | None, what: str, text: str) -> Failure:
        """Make a failure from an error's message and text; without a phase, the phase is the engine's."""
        # Remove the guest's name: the guest no longer exists when the record is read.
        label = re.sub(r"(^|: )the guest \S+ ", r"\1", one_line(what), count=1)
        if len(label) > LABEL_LENGTH:
            label = f"{label[: LABEL_LENGTH - 1]}…"
        # A traceback may quote characters that a record cannot contain.
        return cls(where=where or Phase.ENGINE, label=label, text=plain(text)[-_MAX_TEXT:])


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError(f"not a time in UTC: {text!r}")
    return text


Moment = Annotated[str, AfterValidator(_check_time)]

# The limits are far above any real value, and prevent numbers with too many digits.
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]


class RunRecord(_Frozen):
    """The run record of one recipe in one nightly run.

    ``outcome`` is ``promoted`` (a new golden root), ``unchanged`` (a build would give the golden root again), ``kept``
    (built and good, but not newer than the golden root, or demoted before) or ``failed``. ``time`` is the start, UTC in
    ISO 8601; ``seconds`` is the duration. ``artifact`` is the id of the artifact that was built or found unchanged,
    ``golden`` the id of the golden root afterwards. ``packed_size`` and ``unpacked_size`` are in bytes. ``since_last``
    compares the packages with the previous artifact, ``since_golden`` with the golden root before this run. ``retried``
    is the reason for a second boot. ``commit`` is the checkout's commit; ``dirty`` is True if files were modified.
    """

    schema_version: int = Field(default=SCHEMA, le=SCHEMA)
    recipe: str
    time: Moment
    seconds: Seconds
    outcome: Literal["promoted", "unchanged", "kept", "failed"]
    failure: Failure | None = None
    artifact: str = ""
    golden: str = ""
    plan: str = ""
    stages: tuple[StageTime, ...] = ()
    boot_seconds: Seconds | None = None
    retried: str = ""
    packed_size: Bytes | None = None
    unpacked_size: Bytes | None = None
    verdicts: dict[str, Verdict] = {}
    since_last: Difference | None = None
    since_golden: Difference | None = None
    commit: str = ""
    dirty: bool = False

    @property
    def began(self) -> datetime:
        """The start of the run, in UTC."""
        return datetime.fromisoformat(self.time)

    @property
    def good(self) -> bool:
        """Whether the run succeeded."""
        return self.outcome != "failed"

    @property
    def state(self) -> str:
        """``good`` or ``failed``."""
        return "good" if self.good else "failed"

    @property
    def summary(self) -> str:
        """The outcome as one line of text."""
        if self.failure:
            golden = self.golden or "none"
            return f"failed ({self.failure.where}): {self.failure.label}; its golden root stays {golden}"
        said = {"promoted": "promoted", "unchanged": "nothing changed, golden root", "kept": "built, not promoted:"}
        return f"{said.get(self.outcome, self.outcome)} {self.artifact}"


class History:
    """The history in one file, which may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> list[RunRecord]:
        """Return the run records of the last years, oldest first. Skip invalid lines with a warning."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _make_error(self._path, error) from error
        records, bad = [], []
        left_out = content.rfind(b"\n", 0, max(len(content) - _MAX_READ, 0)) + 1
        first = content.count(b"\n", 0, left_out) + 1
        for number, line in enumerate(content[left_out:].decode(errors="replace").split("\n"), first):
            if not trim(line):
                continue
            try:
                records.append(RunRecord.model_validate_json(line))
            except ValidationError:
                bad.append(number)
        if bad:
            warn(f"{self._path}: invalid record in line {', '.join(map(str, bad))}; skipped")
        return records

    def append(self, record: RunRecord) -> None:
        """Append a complete record, or nothing. Raises VirtrootError if it cannot be written."""
        # Use one write, and not a renamed copy: a full disk has no space for a copy.
        line = record.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Without a lock, the truncation after a failed write could remove another process's record. The lock is a
            # file of its own, because other users may read the history, and could lock it.
            turn = lock.wait_for(self._path.with_name(f".{self._path.name}.lock"))
            with turn, self._path.open("a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                try:
                    written = file.write(line)
                    if written != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                    if not size:
                        durable.flush_directory(self._path.parent)
                except BaseException:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise _make_error(self._path, error) from error


def state_since(records: Sequence[RunRecord]) -> str:
    """Return the time of the first run in the sequence of runs, up to the newest, that all succeeded or all failed.

    Empty without runs.
    """
    since = ""
    for record in reversed(records):
        if record.good != records[-1].good:
            break
        since = record.time
    return since


def _make_error(path: Path, error: OSError) -> VirtrootError:
    return VirtrootError(f"{path}: {error.strerror}", "fix its owner or mode, or free space on its disk")
