"""The history of a recipe: a record a night, one JSON document a line, the newest last."""

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

#: Where a night can fail: what the mirror said, a command of a stage, the inspection of the root, the guest's boot, a
#: check of the acceptance suite, or the machinery: the engine, libvirt, the output directory.

#: Characters that a failure's label may have, so that it fits into the subject line of a mail.
LABEL_LENGTH = 72

#: Characters of a failure's text that a record keeps: its end, where the reason is.
_TEXT_LENGTH = 8000


#: Bytes of a history, its end, that are read: years of nights in which dozens of packages changed.
_READ = 4 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(_Frozen):
    """Why a night failed: where, in a line short enough for a mail's subject, and in full."""

    where: Phase
    label: str = Field(max_length=LABEL_LENGTH)
    text: str = ""

    @classmethod
    def of(cls, where: Phase | None, what: str, text: str) -> Failure:
        """Make the record of a failure from an error's words; without a phase it is the engine's."""
        # The guest's name says nothing: it is gone by the time this is read.
        label = re.sub(r"(^|: )the guest \S+ ", r"\1", one_line(what), count=1)
        if len(label) > LABEL_LENGTH:
            label = f"{label[: LABEL_LENGTH - 1]}…"
        # What a traceback quotes may be no text that a record could have.
        return cls(where=where or Phase.ENGINE, label=label, text=plain(text)[-_TEXT_LENGTH:])


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError(f"{text!r} is no time of UTC")
    return text


Moment = Annotated[str, AfterValidator(_moment)]

# Far more than any night takes or makes, and few enough digits to be written down.
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]


class Night(_Frozen):
    """What came of one recipe in one night.

    ``outcome`` is ``promoted`` (a new golden root), ``unchanged`` (the golden root is what a build would give),
    ``kept`` (built and good, but not newer than the golden root, or demoted before) or ``failed``. ``time`` is its
    beginning, UTC in ISO 8601; ``seconds`` how long it took. ``artifact`` is the id of what was built or found
    unchanged, ``golden`` that of the golden root afterwards. ``packed_size`` and ``unpacked_size`` are bytes.
    ``since_last`` compares the packages with the last artifact before this one, ``since_golden`` with the golden root
    before this night. ``retried`` says why a boot was tried twice. ``commit`` is the checkout's, ``dirty`` whether its
    files differed from it.
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
        """When it began, in UTC."""
        return datetime.fromisoformat(self.time)

    @property
    def good(self) -> bool:
        """Whether the recipe was found in order."""
        return self.outcome != "failed"

    @property
    def state(self) -> str:
        """``good`` or ``failed``."""
        return "good" if self.good else "failed"

    @property
    def summary(self) -> str:
        """What came of it, in a line."""
        if self.failure:
            golden = self.golden or "none"
            return f"failed ({self.failure.where}): {self.failure.label}; its golden root stays {golden}"
        said = {"promoted": "promoted", "unchanged": "nothing changed, golden root", "kept": "built, not promoted:"}
        return f"{said.get(self.outcome, self.outcome)} {self.artifact}"


class History:
    """The history in one file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def nights(self) -> list[Night]:
        """Return the records of the last years, oldest first; a line that is none is left out, with a warning."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unusable(self._path, error) from error
        nights, bad = [], []
        left_out = content.rfind(b"\n", 0, max(len(content) - _READ, 0)) + 1
        first = content.count(b"\n", 0, left_out) + 1
        for number, line in enumerate(content[left_out:].decode(errors="replace").split("\n"), first):
            if not trim(line):
                continue
            try:
                nights.append(Night.model_validate_json(line))
            except ValidationError:
                bad.append(number)
        if bad:
            warn(f"{self._path}: no record in line {', '.join(map(str, bad))}; what is there is left as it is")
        return nights

    def append(self, night: Night) -> None:
        """Add a record, wholly or not at all; raises `VirtrootError` where it cannot be written."""
        # In one write, and not by a copy that is renamed: on a disk that is full there is no room for a copy.
        line = night.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # What is taken back must not be another's record, written meanwhile. Others may read the history, and could
            # lock it.
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
            raise _unusable(self._path, error) from error


def state_since(nights: Sequence[Night]) -> str:
    """Return the time of the night since which a recipe has been in order, or failing, as in the newest of ``nights``.

    Empty without nights.
    """
    since = ""
    for night in reversed(nights):
        if night.good != nights[-1].good:
            break
        since = night.time
    return since


def _unusable(path: Path, error: OSError) -> VirtrootError:
    return VirtrootError(f"{path}: {error.strerror}", "mend its owner or mode, or free space on its disk")
