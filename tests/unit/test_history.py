from __future__ import annotations

import errno
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest
from pydantic import ValidationError

from pipelines.artifact.history import History, RunRecord, state_since
from pipelines.errors import VirtrootError
from tests.support import histories


def night(day: int, **fields: object) -> RunRecord:
    return histories.night("web", day, None).model_copy(update=fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "web" / "history.jsonl"


def test_records_come_back_as_they_were(path: Path) -> None:
    nights = [night(day, retried="a\nb\u2028c") for day in range(12)]
    for each in nights:
        History(path).append(each)
    assert History(path).records() == nights
    assert path.read_text().count("\n") == len(nights)
    assert History(path.with_name("none.jsonl")).records() == []


def test_a_line_that_is_no_record_is_told_and_left_as_it_is(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    history = History(path)
    history.append(night(0))
    with path.open("ab") as file:
        file.write(
            b"\n{}\n\xff\xfe\n"
            + night(1).model_dump_json().replace('"schema_version":1', '"schema_version":2').encode()
        )
        # What a machine that lost its power leaves.
        file.write(b'\n{"schema_version": 1, "recipe": "we')
    history.append(night(2))
    before = path.read_bytes()
    assert history.records() == [night(0), night(2)]
    assert "invalid record in line 3, 4, 5, 6" in capfd.readouterr().err
    assert path.read_bytes() == before


def test_a_record_is_written_wholly_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(path)
    history.append(night(0))
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(VirtrootError, match="Input/output error"):
        history.append(night(1))
    assert path.read_bytes() == before
    monkeypatch.undo()
    history.append(night(2))
    assert history.records() == [night(0), night(2)]


def test_a_record_that_is_taken_back_takes_no_other_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, other = os.fsync, Thread(target=lambda: History(path).append(night(1)))

    def fail(descriptor: int) -> None:
        if other.ident is not None:
            sync(descriptor)
            return
        other.start()
        # Without a lock the other is done long before.
        other.join(0.5)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(VirtrootError, match="Input/output error"):
        History(path).append(night(0))
    other.join()
    assert History(path).records() == [night(1)]


def test_many_append_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda day: History(path).append(night(day % 12, seconds=day)), range(200)):
            pass
    assert sorted(each.seconds for each in History(path).records()) == list(range(200))


def test_where_there_is_room_for_half_a_record_there_is_none(path: Path) -> None:
    history = History(path)
    history.append(night(0))
    before = path.read_bytes()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk that fills up, the first bytes still are written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, former[1]))
    try:
        with pytest.raises(VirtrootError, match=r"history\.jsonl: No space left on device"):
            history.append(night(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"time": "yesterday"},
        {"time": "2026-11-01T02:00:00"},
        {"time": "2026-11-01T02:00:00+09:00"},
        {"time": "2026-13-01T02:00:00Z"},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"boot_seconds": float("inf")},
        {"packed_size": -1},
        {"unpacked_size": 1 << 80},
        {"stages": [{"name": "base", "seconds": 1e300}]},
        {"outcome": "fine"},
        {"golden_root": "web/1"},
    ],
)
def test_a_record_has_no_times_and_sizes_that_cannot_be(fields: dict[str, object]) -> None:
    good = night(0).model_dump()
    RunRecord.model_validate(good)
    with pytest.raises(ValidationError):
        RunRecord.model_validate({**good, **fields})


def test_a_state_begins_with_its_first_night() -> None:
    nights = [night(day) for day in range(histories.DAYS)]
    assert state_since(nights) == "2026-11-10T02:00:00Z"
    assert state_since(nights[:9]) == "2026-11-05T02:00:00Z"
    assert state_since(nights[:3]) == "2026-11-01T02:00:00Z"
    assert state_since([]) == ""
