"""Snapshots of a root in a directory of this machine; libvirt is stood in for."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import snapshots
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.pool import clone_methods
from pipelines.target import programs
from pipelines.target.payload import exchange, layers
from pipelines.target.target import Local
from tests.support.guests import make_guest


@dataclass
class Machine(Hypervisor):
    """libvirt with one domain in the state that a test says."""

    target: Any = field(default_factory=Local)
    is_in: str = "shut off"
    shared_with: str = ""

    def find_domains_using(self, path: str, *, besides: str = "", active: bool = False) -> list[ListedDomain]:
        return [ListedDomain("other", self.shared_with)] if self.shared_with else []

    def state(self, domain: str, *, reason: bool = False) -> str:
        return self.is_in


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    root = tmp_path / "root.web"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "issue").write_text("first\n")
    (root / "link").symlink_to("/etc")
    return make_guest(Machine(), artifact="web/1", root=str(root))


def issue(guest: Guest) -> Path:
    return Path(guest.root) / "etc" / "issue"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def kept(guest: Guest) -> set[str]:
    directory = Path(guest.root).parent / "snapshots.web"
    return names(directory) if directory.exists() else set()


def test_a_snapshot_is_put_back_and_what_it_replaces_is_kept(guest: Guest) -> None:
    snapshots.take(guest, "3")
    issue(guest).write_text("second\n")
    assert list(snapshots.list_snapshots(guest)) == ["3"]
    snapshots.restore(guest, "3", "replaced")
    assert issue(guest).read_text() == "first\n"
    assert (Path(guest.root) / "link").readlink() == Path("/etc")
    assert list(snapshots.list_snapshots(guest)) == ["3", "replaced"]
    snapshots.restore(guest, "replaced", "again")
    assert issue(guest).read_text() == "second\n"
    issue(guest).write_text("third\n")
    snapshots.restore(guest, "3", "before")
    assert issue(guest).read_text() == "first\n"
    for name in ("3", "replaced", "again", "before"):
        snapshots.delete(guest, name)
    assert not (Path(guest.root).parent / "snapshots.web").exists()


def test_nobody_else_may_enter_where_snapshots_are(guest: Guest) -> None:
    snapshots.take(guest, "first")
    assert (Path(guest.root).parent / "snapshots.web").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../web", "-x", "a b", "a\n", "x" * 64])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(VirtrootError, match="invalid snapshot name"):
        snapshots.check_name(name)


def test_what_cannot_be_done_leaves_everything_as_it_was(guest: Guest) -> None:
    with pytest.raises(VirtrootError, match="web has no snapshot first") as none:
        snapshots.restore(guest, "first", "replaced")
    assert "none yet" in str(none.value)
    snapshots.take(guest, "first")
    with pytest.raises(VirtrootError, match="already has a snapshot first"):
        snapshots.take(guest, "first")
    running = replace(guest, hypervisor=Machine(is_in="running"))
    with pytest.raises(VirtrootError, match="web is running"):
        snapshots.take(running, "second")
    with pytest.raises(VirtrootError, match="web is running"):
        snapshots.restore(running, "first", "replaced")
    twin = replace(guest, hypervisor=Machine(shared_with="web-copy"))
    with pytest.raises(VirtrootError, match="is the root of web-copy too"):
        snapshots.restore(twin, "first", "replaced")
    layered = replace(guest, source=replace(guest.source, golden="/pool/golden.web.0", lower="0" * 64))
    with pytest.raises(VirtrootError, match="have different base trees"):
        snapshots.restore(layered, "first", "replaced")
    assert kept(guest) == {"first"}


def test_a_guest_that_is_started_meanwhile_has_no_snapshot(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    guest = replace(guest, hypervisor=machine)
    made = clone_methods.clone

    def make(*arguments: Any, **options: Any) -> None:
        made(*arguments, **options)
        machine.is_in = "running"

    monkeypatch.setattr(clone_methods, "clone", make)
    with pytest.raises(VirtrootError, match="web is running"):
        snapshots.take(guest, "first")
    assert kept(guest) == set()


def test_what_a_killed_task_left_goes_with_the_next(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "snapshots.web" / ".first@1234" / "root").mkdir(parents=True)
    (tmp_path / "snapshots.web" / "torn" / "root").mkdir(parents=True)
    assert snapshots.list_snapshots(guest) == {}
    snapshots.take(guest, "first")
    assert kept(guest) == {"first", "torn"}


def test_a_restore_that_cannot_exchange_leaves_the_root(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots.take(guest, "first")
    issue(guest).write_text("second\n")

    def refuse(*_: Any) -> None:
        raise VirtrootError("no", "try")

    monkeypatch.setattr(programs, "exchange", refuse)
    with pytest.raises(VirtrootError, match="no"):
        snapshots.restore(guest, "first", "replaced")
    assert issue(guest).read_text() == "second\n"


@pytest.mark.parametrize("number", [0, errno.EINVAL, errno.ENOSYS])
def test_directories_change_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if number:
        monkeypatch.setattr(exchange, "try_exchange", lambda *_: number)
    exchange.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert {path.name: names(path) for path in tmp_path.iterdir()} == {"one": {"other"}, "other": {"one"}}


def test_a_directory_that_cannot_be_renamed_stays(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(OSError, match="No such file"):
        exchange.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert names(tmp_path) == {"one"}


def test_copied_layers_forget_their_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attribute that only root may set is stood in for by one that anybody may."""
    monkeypatch.setattr(layers, "_UPPER", "user.upper")
    index = tmp_path / "work" / "index"
    (index / "directory").mkdir(parents=True)
    (index / "file").touch()
    for path in (index, index / "directory", index / "file"):
        os.setxattr(path, "user.upper", b"handle")
    layers.detach_copy(str(tmp_path))
    assert [os.listxattr(path) for path in (index, index / "directory", index / "file")] == [[], [], ["user.upper"]]
    layers.detach_copy(str(tmp_path / "nothing"))
