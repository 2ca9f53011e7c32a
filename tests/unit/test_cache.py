"""What is kept of stages: whole or not at all, within its bound, and noticed when it is not what it was."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines import prune
from pipelines.builder.cache import NewEntry, StageCache
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT, Settings

ROOM = 1000


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path, ROOM)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "stages"


def keep(cache: StageCache, identity: str, content: bytes, *, used: int | None = None) -> None:
    with cache.create_entry(identity, "base", "web") as new_entry:
        assert new_entry
        new_entry.write(content)
        cache.commit(new_entry)
    if used is not None:
        record = next(path for path in cache._home.glob(f"{identity}.json"))
        os.utime(record, (used, used))


def read(cache: StageCache, identity: str) -> bytes | None:
    """What the cache has of that id, where that is whole."""
    with cache.open_root(identity) as kept:
        if kept is None:
            return None
        content = kept.read()
        return content if kept.is_whole() else None


def names(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.name != ".lock")


def test_what_is_kept_comes_back(cache: StageCache, home: Path) -> None:
    assert not cache.has("a")
    assert read(cache, "a") is None
    keep(cache, "a", b"root")
    assert cache.has("a")
    assert read(cache, "a") == b"root"
    assert names(home) == ["a.json", "a.tar.zst"]
    # A root has secrets.
    assert (home / "a.tar.zst").stat().st_mode & 0o777 == 0o600


def test_what_is_not_committed_is_gone(cache: StageCache, home: Path) -> None:
    with cache.create_entry("a", "base", "web") as new_entry:
        assert new_entry
        new_entry.write(b"root")
        assert not cache.has("a")
        assert len(names(home)) == 1
    assert names(home) == []


@pytest.mark.parametrize("change", [b"rooT", b"roo", b"roots", b""])
def test_a_changed_root_is_noticed(cache: StageCache, home: Path, change: bytes) -> None:
    keep(cache, "a", b"root")
    (home / "a.tar.zst").write_bytes(change)
    assert read(cache, "a") is None


def test_a_root_is_noticed_that_was_read_in_part(cache: StageCache, home: Path) -> None:
    keep(cache, "a", b"root")
    (home / "a.tar.zst").write_bytes(b"rooT")
    with cache.open_root("a") as kept:
        assert kept
        assert kept.read(2) == b"ro"
        assert not kept.is_whole()


@pytest.mark.parametrize("record", ["", "{}", "no JSON", '{"sha256": "x", "size": 4, "stage": "s", "recipe": "r"}'])
def test_a_record_that_is_none_takes_its_root_along(
    cache: StageCache, home: Path, record: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(cache, "a", b"root")
    (home / "a.json").write_text(record)
    assert read(cache, "a") is None
    assert names(home) == []
    assert "building the root again" in capsys.readouterr().err


def test_a_record_without_its_root_goes(cache: StageCache, home: Path) -> None:
    keep(cache, "a", b"root")
    (home / "a.tar.zst").unlink()
    assert read(cache, "a") is None
    assert names(home) == []


def test_the_least_recently_used_go_first(cache: StageCache) -> None:
    for age, identity in enumerate("abc"):
        keep(cache, identity, b"x" * 300, used=age)
    assert read(cache, "a")
    keep(cache, "d", b"x" * 300)
    assert [each for each in "abcd" if cache.has(each)] == ["a", "c", "d"]
    keep(cache, "e", b"x" * 700)
    assert [each for each in "abcde" if cache.has(each)] == ["d", "e"]


def test_the_bound_holds_whatever_is_kept(cache: StageCache) -> None:
    for number in range(20):
        keep(cache, str(number), b"x" * (37 * number))
        assert cache.size() <= ROOM
    assert cache.has("19")


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out(
    cache: StageCache, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(cache, "a", b"x" * ROOM)
    keep(cache, "b", b"x" * (ROOM + 1))
    assert [cache.has("a"), cache.has("b")] == [True, False]
    assert "larger than cache_size" in capsys.readouterr().err


def test_a_cache_of_no_size_keeps_and_finds_nothing(cache: StageCache, tmp_path: Path) -> None:
    keep(cache, "a", b"root")
    none = StageCache(tmp_path, 0)
    assert not none.has("a")
    with none.create_entry("b", "base", "web") as new_entry:
        assert new_entry is None


class Full:
    """A disk that takes a little."""

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, chunk: bytes) -> int:
        self.room -= len(chunk)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(chunk)


def test_a_full_disk_is_warned_of_once_and_nothing_is_kept(
    cache: StageCache, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache.create_entry("a", "base", "web") as new_entry:
        assert new_entry
        new_entry._content = Full(new_entry._content, 10)  # type: ignore[assignment]
        for _ in range(5):
            new_entry.write(b"123456")
        cache.commit(new_entry)
    assert names(home) == []
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_root_does_not_take_the_last_of_the_disk(
    cache: StageCache, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(home.parent.parent)._replace(free=3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    keep(cache, "a", b"root")
    assert names(home) == []
    assert "too little disk space would be left" in capsys.readouterr().err
    keep(cache, "b", b"few")
    assert cache.has("b")


def test_a_cache_that_cannot_be_written_stops_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stages").write_text("no directory")
    cache = StageCache(tmp_path, ROOM)
    assert not cache.has("a")
    with cache.create_entry("a", "base", "web") as new_entry:
        assert new_entry is None
    cache.forget("a")
    assert "is not cached" in capsys.readouterr().err


def test_what_a_killed_build_left_is_cleared_and_what_one_writes_is_not(cache: StageCache, home: Path) -> None:
    keep(cache, "a", b"root")
    (home / ".writing-killed").write_bytes(b"half a root")
    with cache.create_entry("b", "base", "web") as new_entry:
        assert new_entry
        assert not (home / ".writing-killed").exists()
        keep(cache, "c", b"root")
        new_entry.write(b"root")
        cache.commit(new_entry)
    assert read(cache, "b") == b"root"


def test_two_that_keep_the_same_leave_one_that_is_whole(cache: StageCache) -> None:
    with ExitStack() as both:
        new_entry: list[NewEntry] = []
        for content in (b"one", b"another"):
            each = both.enter_context(cache.create_entry("a", "base", "web"))
            assert each
            each.write(content)
            new_entry.append(each)
        for each in reversed(new_entry):
            cache.commit(each)
    assert read(cache, "a") == b"one"


def test_cleaning_disturbs_neither_reader_nor_writer(cache: StageCache, home: Path, tmp_path: Path) -> None:
    keep(cache, "a", b"root")
    with cache.open_root("a") as kept, cache.create_entry("b", "base", "web") as new_entry:
        assert kept
        assert new_entry
        new_entry.write(b"root")
        (home / ".writing-killed").write_bytes(b"half")
        assert prune.clean_cache(Settings(cache_dir=str(tmp_path)), asking=None) == len(b"root") + len(b"half")
        assert kept.read() == b"root"
        assert kept.is_whole()
        cache.commit(new_entry)
    assert [cache.has("a"), cache.has("b")] == [False, True]


def test_several_outputs_may_share_a_cache(tmp_path: Path) -> None:
    shared, own = str(tmp_path / "cache"), str(tmp_path / "output")
    assert Settings(output=own).cache_home == Path(own) / ".cache"
    assert Settings(output=own, cache_dir=shared).cache_home == Path(shared)
    assert Settings(output=own, cache_dir="caches").cache_home == CHECKOUT / "caches"


def test_cleaning_asks_where_there_is_something(cache: StageCache, tmp_path: Path) -> None:
    settings = Settings(cache_dir=str(tmp_path))
    assert prune.clean_cache(settings, asking=lambda _: False) == 0
    keep(cache, "a", b"root")
    with pytest.raises(VirtrootError, match="was not deleted"):
        prune.clean_cache(settings, asking=lambda _: False)
    assert cache.has("a")
    assert prune.clean_cache(settings, asking=lambda _: True) == 4


@pytest.mark.parametrize("odd", ["a link to a root", "a link to nowhere", "a directory"])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_no_file_in_the_place_of_a_root_is_cleared_away(
    cache: StageCache, home: Path, tmp_path: Path, odd: str, *, known: bool
) -> None:
    keep(cache, "a", b"root")
    root = home / "a.tar.zst"
    root.rename(tmp_path / "elsewhere")
    if odd == "a directory":
        root.mkdir()
        (root / "full").touch()
    else:
        root.symlink_to(tmp_path / ("elsewhere" if odd == "a link to a root" else "nowhere"))
    if known:
        assert read(cache, "a") is None
        assert names(home) == []
    else:
        (home / "a.json").unlink()
    keep(cache, "b", b"other")
    assert read(cache, "b") == b"other"
    cache.clear()
    assert names(home) == []
    assert (tmp_path / "elsewhere").read_bytes() == b"root"
