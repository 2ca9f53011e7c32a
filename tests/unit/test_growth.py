"""What grows with what a guest wrote grows no faster than that: twice the input is about twice the work."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.host import lines, process
from pipelines.host.process import Completed
from pipelines.merge import account_numbers, accounts, changes, paths, upgrade_plan
from pipelines.merge.baselines import Configured, Inventory, Unowned
from pipelines.merge.choices import Choices
from pipelines.target import programs
from pipelines.target.payload import errors, inventory, packages, root_reader
from pipelines.target.target import Local

#: Of twice the input; n log n is a little more than twice.
MOST = 2.6


def work(do: Callable[[], object]) -> int:
    """Count the calls of functions, methods and generators while ``do`` runs, which no other load changes."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return count


def grows(make: Callable[[int], Callable[[], object]], size: int) -> float:
    """Return how many times the work is that twice the input is."""
    paths._CACHE.clear()
    one = work(make(size))
    paths._CACHE.clear()
    return work(make(2 * size)) / one


def users(number: int, first: int = 1000, prefix: str = "u") -> bytes:
    return b"root:x:0:0::/root:/bin/sh\n" + b"".join(
        b"%b%d:x:%d:%d::/:/bin/sh\n" % (prefix.encode(), each, first + each, first + each) for each in range(number)
    )


def groups(number: int, first: int = 1000, prefix: str = "u") -> bytes:
    return b"root:x:0:\n" + b"".join(b"%b%d:x:%d:\n" % (prefix.encode(), each, first + each) for each in range(number))


@pytest.mark.parametrize("theirs", ["few", "the same numbers", "the same names"])
def test_many_accounts(theirs: str) -> None:
    """With the same numbers each of the guest's gets another one; with the same names each group is looked up."""

    def make(size: int) -> Callable[[], object]:
        base = {"passwd": users(0), "group": groups(0)}
        ours = {"passwd": users(size), "group": groups(size)}
        if theirs == "the same names":
            base = {"passwd": users(size, 5000), "group": groups(size, 5000)}
        new = {
            "few": base,
            "the same numbers": {"passwd": users(size, prefix="n"), "group": groups(size, prefix="n")},
            "the same names": {"passwd": users(size, 9000), "group": groups(size, 9000)},
        }[theirs]
        return lambda: accounts.merge(base, ours, new)

    assert grows(make, 200) < MOST


def test_many_subordinate_numbers() -> None:
    def make(size: int) -> Callable[[], object]:
        ours = b"".join(b"u%d:%d:65536\n" % (each, 100000 + 65536 * each) for each in range(size))
        theirs = b"".join(b"n%d:%d:65536\n" % (each, 100000 + 65536 * each) for each in range(size))
        return lambda: account_numbers.merge_ranges(b"", ours, theirs)

    assert grows(make, 300) < MOST


def test_spans_say_what_each_range_said() -> None:
    """Overlapping, empty and touching ranges, against the plain way to ask."""
    given = [(10, 5), (12, 1), (30, 0), (40, 10), (45, 10), (55, 5), (0, 0)]
    taken = account_numbers.TakenRanges(given)
    for first in range(65):
        for count in range(8):
            plain = any(first < start + many and start < first + count for start, many in given if many)
            assert taken.overlaps(first, count) == plain, (first, count)
    assert taken.end == 60
    taken.add(20, 5)
    assert taken.overlaps(24, 1)
    assert not taken.overlaps(25, 5)


def configured(paths: list[str]) -> dict[str, Configured]:
    return {path: Configured("directory", 0o755, 0, 0) for path in paths}


BASE = Inventory(packages=(), etc=configured(["etc/passwd", "etc/group"]), unowned={})


def test_many_directories_in_etc() -> None:
    def make(size: int) -> Callable[[], object]:
        now = Inventory((), configured([f"etc/d{each}" for each in range(size)]), {})
        return lambda: changes.compare_inventories(BASE, now, "debian")

    assert grows(make, 400) < MOST


def test_nested_paths_are_matched_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    paths._CACHE.clear()
    nested = ["/".join(["srv2", *["d"] * depth]) for depth in range(150)]
    assert not any(list(map(paths.is_ignored, nested)))
    assert len(paths._CACHE) == len(nested)
    assert paths.is_ignored("var/log/a/b/c")
    assert paths.is_ignored("srv2/d/x.pyc/y")
    assert not paths.is_ignored("srv2/d/x.pyd/y")
    monkeypatch.setattr(paths, "_MOST_CACHED", 10)
    assert [paths.is_ignored(path) for path in (*nested, "var/log/a")] == [False] * len(nested) + [True]


def test_many_new_directories_are_planned() -> None:
    def make(size: int) -> Callable[[], object]:
        trees = {f"opt/d{each}": Unowned("tree", 0, entries=1, mode=0o755, gid=0) for each in range(size)}
        files = {"etc/passwd": users(0), "etc/group": groups(0)}
        base, ours = Inventory((), BASE.etc, {}, (), files), Inventory((), BASE.etc, trees, (), files)
        read = (lambda _: None, lambda _: None)
        return lambda: upgrade_plan.plan(base, ours, base, "debian", Choices(), read, lambda *_: None)

    assert len(make(3)().empty) == 3  # type: ignore[attr-defined]
    assert grows(make, 200) < MOST


def test_below_a_set_is_below_its_paths() -> None:
    trees = ("home", "var/lib/x", "a/b")
    for path in ("home", "home/ann/x", "homes", "var/lib", "var/lib/x/y", "a", "a/b/c/d", "a/bc", ""):
        assert paths.is_below(path, trees) == paths.is_below(path, frozenset(trees)), path


def opened(do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    count, real = 0, os.open

    def note(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        nonlocal count
        count += 1
        return real(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", note)
        do()
    return count


@pytest.mark.parametrize("known", [None, []])
def test_a_tree_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: list[str] | None) -> None:
    """A chain of directories, each of which is opened from the root on for its entries, and measured once."""
    depth = 60
    (tmp_path / "opt" / "/".join(["d"] * depth)).mkdir(parents=True)
    count = opened(lambda: inventory.take(str(tmp_path), 0, known), monkeypatch)
    assert count < (depth * depth / 2 if known is None else 0) + 8 * depth


def test_what_a_tree_is_known_by_stays(tmp_path: Path) -> None:
    """Records of earlier versions are compared with it."""
    (tmp_path / "opt/b/c").mkdir(parents=True)
    (tmp_path / "opt/a").mkdir()
    (tmp_path / "opt/a/file").write_text("x")
    (tmp_path / "opt/b/link").symlink_to("/")
    (tmp_path / "opt/b/c/file").write_text("y")
    digest, pending = hashlib.sha256(), ["opt"]
    while pending:
        current = pending.pop()
        for path in sorted((tmp_path / current).iterdir()):
            status = path.lstat()
            kind = "link" if path.is_symlink() else "directory" if path.is_dir() else "file"
            name = str(path.relative_to(tmp_path))
            what: list[object] = [name, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
            if kind == "directory":
                pending.append(name)
            else:
                what += [status.st_size, int(status.st_mtime)]
            digest.update(json.dumps(what).encode())
    assert inventory._measure(root_reader.RootReader(str(tmp_path)), "opt")["digest"] == digest.hexdigest()


def test_what_is_compared_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_MOST_COMPARED", 5)
    root = root_reader.RootReader(str(tmp_path))
    (tmp_path / "file").write_text("text of a file")
    database = packages.Database(owners={"file": "p"})
    monkeypatch.setattr(packages.Digests, "find", lambda *_: ("md5", "0"))
    with pytest.raises(errors.Refused, match="like file"):
        list(inventory._edited(root, database, {"file": 1.0}))


class Slow(Local):
    """A target on which nothing ends in time."""

    def run(self, argv: Any, **given: Any) -> Completed:
        if argv[0] == "sh":
            return super().run(argv, **given)
        assert given["timeout"] > 0
        raise process.make_overrun(argv, given["timeout"])


@pytest.mark.parametrize(
    "look",
    [
        lambda: programs.take_inventory(Slow(), "/pool/root.web", 0, []),
        lambda: programs.save_inventory(Slow(), "/pool/root.web", 0, "/boot/record"),
        lambda: programs.find_owners(Slow(), "/pool/root.web", "/pool/other", ["home"]),
        lambda: programs.check_path_length(Slow(), "/pool/root.web", "/pool/other"),
    ],
)
def test_looking_through_a_root_has_an_end(look: Callable[[], object]) -> None:
    with pytest.raises(VirtrootError, match=r"/pool/root\.web contains so many files") as refused:
        look()
    assert "import" not in str(refused.value)


def test_a_merge_that_takes_long_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Any, *, timeout: float, **_: Any) -> Completed:
        raise process.make_overrun(argv, timeout)

    monkeypatch.setattr(process, "run", run)
    assert lines.merge(b"a\n", b"b\n", b"c\n") is None
