"""Journals are whole or not there, whatever the disk and the processes do."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.target.payload import journal, swap, withdraw
from pipelines.target.payload.errors import Refused


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    """Let files grow to ``size`` bytes, like a full disk: a write that is longer writes a part."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.fixture(autouse=True)
def no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ignore_signals", lambda: None)


def test_an_entry_that_does_not_fit_is_an_error_and_leaves_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(OSError, match="File too large"), limited_to(100), journal.create(str(path)) as log:
        log.write({"names": "x" * 200})
    assert not path.exists()


def test_a_part_of_a_later_entry_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with journal.create(str(path)) as log:
        log.write({"first": 1})
        with pytest.raises(OSError, match="File too large"), limited_to(30):
            log.write({"second": "x" * 200})
        assert journal.read(str(path)) == {"first": 1}
        log.write({"third": 3})
    assert journal.read(str(path)) == {"first": 1, "third": 3}


@pytest.mark.parametrize("content", ["", '{"cut": 1', "\0\0\0\0", '{"cut"'])
def test_a_journal_without_a_whole_first_line_is_not_begun(tmp_path: Path, content: str) -> None:
    (tmp_path / "journal").write_text(content)
    assert journal.read(str(tmp_path / "journal")) is None


@pytest.mark.parametrize(
    "content", ['{"a": 1}\nrubbish\n', '{"a": 1}\n[]x\n', '{"a": 1}{"done": true}\n', '{"a": 1}\n3\n']
)
def test_a_damaged_journal_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal"
    path.write_text(content)
    with pytest.raises(Refused, match=f"{path} is damaged"):
        journal.read(str(path))
    with pytest.raises(Refused, match="is damaged"):
        withdraw.undo(str(path))
    assert path.read_text() == content


def test_what_is_not_a_file_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Refused, match="not a regular file"):
        journal.read(str(tmp_path / "fifo"))
    (tmp_path / "link").symlink_to("fifo")
    with pytest.raises(OSError, match="symbolic links"):
        journal.read(str(tmp_path / "link"))


def test_who_waited_for_a_journal_that_was_deleted_makes_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    wrote = []

    def second() -> None:
        with journal.create(str(path)) as log:
            log.write({"second": 2})
            wrote.append(path.exists())

    with journal.create(str(path)) as log:
        log.write({"first": 1})
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        log.delete()
    waiting.join(10)
    assert wrote == [True]


def test_a_swap_without_its_journal_is_not_taken_for_done(tmp_path: Path) -> None:
    for content in (None, '{"cut'):
        if content is not None:
            (tmp_path / "journal").write_text(content)
        with pytest.raises(Refused, match="journal of the swap is missing"):
            swap.finish(str(tmp_path / "journal"), "/none", "1", ["virsh"], may_exchange=True)
    swap.finish(str(tmp_path / "journal"), "/none", "1", ["virsh"], may_exchange=False)
