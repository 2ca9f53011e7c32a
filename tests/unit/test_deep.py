"""Trees that are nested deeper than paths, descriptors and Python's recursion reach."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.pool import clone_methods
from pipelines.target import programs
from pipelines.target.payload import errors, facts, guest_facts, owners, path_length, tree_copy, usage, walk
from pipelines.target.target import Local

#: More than Python's limit of recursion, than descriptors of a process, and as a path more than 4095 bytes.
DEEP = 3000


def nest(top: Path, depth: int, name: str = "d") -> None:
    """Make nested directories below ``top``, with a file in the last one."""
    handle = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is deleted by a program that can."""
    (tmp_path / "srv").mkdir()
    yield tmp_path
    subprocess.run(["rm", "-rf", "--", str(tmp_path)], check=True)


def walked(top: Path) -> list[tuple[str, str]]:
    handle = os.open(top, os.O_RDONLY)
    try:
        return [("/".join(found.parts), name) for found, name, _ in walk.descend(handle)]
    finally:
        os.close(handle)


def test_a_walk_meets_everything_once_directories_before_what_is_in_them(tmp_path: Path) -> None:
    for path in ("a/b/c", "a/d", "e", "f/g/h/i"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("")
    (tmp_path / "f/link").symlink_to("/")
    found = [str(Path(directory, name)) for directory, name in walked(tmp_path)]
    assert sorted(found) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert all(found.index(str(Path(each).parent)) < found.index(each) for each in found if "/" in each)


def test_a_walk_does_not_leave_what_is_moved_away(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    handle = os.open(tmp_path / "root", os.O_RDONLY)
    walking = walk.descend(handle)
    assert [next(walking)[1], next(walking)[1]] == ["a", "b"]
    (tmp_path / "root/a").rename(tmp_path / "other/a")
    with pytest.raises(OSError, match="moved"):
        list(walking)
    os.close(handle)


@pytest.mark.parametrize("depth", [50, DEEP])
def test_a_walk_opens_two_directories_for_each(place: Path, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the way down and one on the way up, however deep it is."""
    nest(place / "srv", depth)
    opened, real = [], os.open

    def count(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", count)
    handle = real(place / "srv", os.O_RDONLY)
    assert sum(1 for _ in walk.descend(handle)) == depth + 1
    os.close(handle)
    monkeypatch.undo()
    assert len(opened) == 2 * depth


def test_one_deep_guest_hides_no_size(place: Path) -> None:
    nest(place / "srv", DEEP)
    (place / "other").mkdir()
    (place / "other/file").write_bytes(b"x" * 5000)
    said = subprocess.run(
        ["du", "-s", "--block-size=1", str(place / "srv")], check=True, capture_output=True, text=True
    )
    own = (place / "srv").stat().st_blocks * 512
    deep, other = programs.measure(Local(), 60, [(str(place / "srv"), ""), (str(place / "other"), "")])
    assert deep == (int(said.stdout.partition("\t")[0]) - own, 0)
    assert other is not None
    assert other[0] >= 5000


def test_no_error_in_one_root_hides_the_size_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    real = usage.measure

    def measure(path: str, deadline: float) -> tuple[int, int]:
        if path == "odd":
            raise RecursionError
        return real(path, deadline)

    monkeypatch.setattr(usage, "measure", measure)
    assert usage.measure_all([("odd", ""), (str(tmp_path / "a"), "")], 10) == [None, (0, 0)]


@pytest.mark.parametrize(("depth", "name"), [(DEEP, "d"), (30, "x" * 200)])
def test_what_cp_cannot_copy_is_refused_before_it_begins(place: Path, depth: int, name: str) -> None:
    nest(place / "srv", depth, name)
    with pytest.raises(VirtrootError, match="nested too deep") as refused:
        clone_methods.clone(Local(), "copy", str(place / "srv"), str(place / "copy"))
    assert "rm -rf" in refused.value.hint
    assert not (place / "copy").exists()
    (place / "layers/work").mkdir(parents=True)
    (place / "srv").rename(place / "layers/upper")
    with pytest.raises(VirtrootError, match="nested too deep"):
        clone_methods.copy_layers(Local(), str(place / "layers"), str(place / "copy"))
    assert not (place / "copy").exists()
    with pytest.raises(errors.Refused, match="deeper than cp can copy"):
        owners.find_owners(str(place / "layers"), ["upper"])


def test_the_longest_path_that_is_let_through_is_one_that_cp_copies(place: Path) -> None:
    srv = place / "srv"
    nest(srv, 1500)
    most = 2 * 1500 + len("leaf")
    path_length.check(str(srv), most)
    with pytest.raises(errors.TooLong):
        path_length.check(str(srv), most - 1)
    clone_methods.clone(Local(), "copy", str(srv), str(place / "copy"))
    assert len(walked(place / "copy")) == 1501


def test_a_path_of_any_bytes_is_named(place: Path) -> None:
    (place / "srv" / os.fsdecode(b"\xff" * 200)).mkdir()
    with pytest.raises(errors.TooLong, match=r"^/\?+\.\.\. is nested too deep"):
        path_length.check(str(place / "srv"), 100)
    with pytest.raises(VirtrootError, match="nested too deep"):
        programs.check_path_length(Local(), str(place / "srv"), "/" + "x" * 3900)


def test_a_deep_tree_is_deleted(place: Path) -> None:
    nest(place / "srv", DEEP)
    handle = os.open(place, os.O_RDONLY)
    tree_copy._delete(handle, "srv")
    os.close(handle)
    assert not (place / "srv").exists()


def test_entries_of_guests_roots_are_not_told(place: Path) -> None:
    asked = {
        "files": [], "locks": [],
        "directories": [str(place), str(place / "srv")],
        "guests": {"web": {"root": str(place / "srv"), "boot": "/b", "kernel": "", "initrd": "", "shares": []}},
    }  # fmt: skip
    (place / "srv/etc").mkdir()
    seen = facts.collect(asked)
    assert seen["directories"][str(place)]["entries"] == [("srv", True)]
    assert seen["directories"][str(place / "srv")]["entries"] == []
    shutil.rmtree(place / "srv")


def test_one_guest_that_cannot_be_looked_at_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def guest(asked: dict[str, str]) -> dict[str, object]:
        if asked["root"] == "odd":
            raise ValueError("what it wrote")
        return {"directory": True}

    monkeypatch.setattr(guest_facts, "_describe_guest", guest)
    asked = {
        "files": [], "locks": [], "directories": [],
        "guests": {"one": {"root": "odd"}, "two": {"root": "fine"}},
    }  # fmt: skip
    assert facts.collect(asked)["guests"] == {"one": {"unread": "what it wrote"}, "two": {"directory": True}}
