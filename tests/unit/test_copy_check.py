"""Every kind of entry that a file system has is carried exactly, wherever it lies, or the carry ends with an error."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.target.payload import attributes, copy_check, errors, owners, tree_copy
from pipelines.target.payload.copy_plan import CopyPlan
from tests.support.files import write
from tests.support.plans import plan

ACL = attributes._pack_acl(
    [(1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def _device(kind: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        os.mknod(path, kind | 0o640, os.makedev(1, 3))
        os.chown(path, 7, 8)

    return make


def _socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        here = os.open(path.parent, os.O_DIRECTORY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    path.chmod(0o620)


def _set(attribute: str, value: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text("text")
        os.setxattr(path, attribute, value)

    return make


def _tree(path: Path) -> None:
    path.mkdir()
    (path / "in").mkdir()
    write(path / "in/file", "file", mode=0o6755, owner=(5, 6))
    (path / "in").chmod(0)
    path.chmod(0o3770)
    for each in (path, path / "in"):
        os.setxattr(each, "system.posix_acl_default", ACL)


def _owned_link(path: Path) -> None:
    path.symlink_to("x")
    os.lchown(path, 5, 6)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"data")


KINDS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: write(path, "text", mode=0o604, owner=(3, 4)),
    "an empty file": lambda path: path.touch(),
    "setuid and setgid": lambda path: write(path, "text", mode=0o6750, owner=(3, 4)),
    "a FIFO": lambda path: os.mkfifo(path, 0o622),
    "a socket": _socket,
    "a character device": _device(stat.S_IFCHR),
    "a block device": _device(stat.S_IFBLK),
    "a link that leads nowhere": lambda path: path.symlink_to("/nowhere/\udcff"),
    "a link with owners": _owned_link,
    "user attributes": _set("user.mine", b"\0\xff"),
    "trusted attributes": _set("trusted.mine", b"value"),
    "an ACL": _set("system.posix_acl_access", ACL),
    "capabilities": _set("security.capability", CAPABILITY),
    "an empty directory": lambda path: path.mkdir(0o700),
    "directories that nobody may enter, with ACLs": _tree,
    "holes": _sparse,
}

#: How a plan says that what lies in a directory is to be copied, for each place that it may lie in.
PLACES = {"etc/app": "copies", "srv/app": "trees", "opt/app": "trees", "usr/local/app": "trees", "var/lib/app": "whole"}

NAMES = ("plain", "with space", "new\nline", "line\u2028separator", "not-utf8-\udcff", "-rf", "n" * 255)


def described(path: Path) -> dict[str, object]:
    """Return all that tells an entry from another one, by its path and those below it."""
    found: dict[str, object] = {}
    for each in (path, *sorted(path.rglob("*"))) if path.is_dir() and not path.is_symlink() else (path,):
        status = each.lstat()
        found[str(each.relative_to(path))] = (
            stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns,
            os.fsencode(each.readlink()) if each.is_symlink() else each.read_bytes() if each.is_file() else b"",
            attributes.read_attributes(str(each)), status.st_blocks < 1024,
        )  # fmt: skip
    return found


def planned(place: str, name: str, old: Path) -> CopyPlan:
    how = PLACES[place]
    if how != "copies":
        return plan(**{how: [place]})
    below = [str(each.relative_to(old)) for each in (old / place / name, *(old / place / name).rglob("*"))]
    return plan(copies=[place, *below] if (old / place / name).is_dir() else [place, f"{place}/{name}"])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_carried_exactly(kind: str, place: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / place).mkdir(parents=True)
    new.mkdir()
    # A default ACL of the directory that it comes into is none of its own.
    os.setxattr(new, "system.posix_acl_default", ACL)
    KINDS[kind](old / place / "entry")
    for each in (*(old / place).rglob("*"), old / place):
        os.utime(each, ns=(1, 1_600_000_000_123_456_789), follow_symlinks=False)
    tree_copy.copy_state(str(old), str(new), planned(place, "entry", old))
    assert described(new / place) == described(old / place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_carried(name: str, place: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write(old / place / name, "mine")
    new.mkdir()
    tree_copy.copy_state(str(old), str(new), planned(place, name, old))
    assert (new / place / name).read_text() == "mine"
    # The file is written where the lines of both are had, too.
    file = {"path": f"{place}/{name}", "mode": 0o600, "uid": 0, "gid": 0, "content": "eA==", "attributes": "old"}
    tree_copy.copy_state(str(old), str(new), plan(writes=[file]))
    assert (new / place / name).read_text() == "x"
    assert [each.name for each in (new / place).iterdir()] == [name]


def test_a_file_with_names_in_several_trees_keeps_them(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "etc").mkdir(parents=True)
    write(old / "home/ann/file", "mine", owner=(101, 101))
    for path in ("srv", "var/lib/app", "etc"):
        (old / path).mkdir(parents=True, exist_ok=True)
        os.link(old / "home/ann/file", old / path / "again")
    os.utime(old / "srv", (5, 5))
    write(new / "srv/again", "of the new root")
    tree_copy.copy_state(
        str(old), str(new), plan(copies=["etc/again"], trees=["home", "srv"], whole=["var/lib/app"], users={"101": 102})
    )
    names = [new / path for path in ("home/ann/file", "srv/again", "var/lib/app/again", "etc/again")]
    assert {each.stat().st_ino for each in names} == {names[0].stat().st_ino}
    assert (names[0].read_text(), names[0].stat().st_uid, names[0].stat().st_nlink) == ("mine", 102, 4)
    assert (new / "srv").stat().st_mtime == 5


@pytest.mark.parametrize("damage", [
    lambda path: path.chmod(0o600),
    lambda path: os.chown(path, 9, 0),
    lambda path: os.chown(path, 0, 9),
    lambda path: path.write_text("longer than it was"),
    lambda path: os.utime(path, (1, 1)),
    lambda path: os.setxattr(path, "user.other", b"x"),
    lambda path: path.unlink(),
    lambda path: (path.unlink(), path.symlink_to("elsewhere")),
], ids=["mode", "user", "group", "size", "time", "attributes", "gone", "kind"])  # fmt: skip
@pytest.mark.parametrize("place", PLACES)
def test_a_copy_that_is_not_as_planned_is_an_error(
    place: str, damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write(old / place / "file", "mine")
    new.mkdir()
    finish = copy_check.complete

    def damaged(*arguments: object) -> None:
        damage(new / place / "file")
        finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copy_check, "complete", damaged)
    with pytest.raises(errors.Refused, match=f"{place}/file: (not copied|the copy differs in )"):
        tree_copy.copy_state(str(old), str(new), planned(place, "file", old))


def test_attributes_of_a_file_with_lines_of_both_are_of_the_side_that_changed_them(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root, value in ((old, b"old"), (new, b"new")):
        os.setxattr(write(root / "etc/file", "text"), "user.of", value)
        os.setxattr(root / "etc/file", "system.posix_acl_access", ACL)
    for side in ("old", "new"):
        file = {"path": "etc/file", "mode": 0o660, "uid": 0, "gid": 0, "content": "eA==", "attributes": side}
        tree_copy.copy_state(str(old), str(new), plan(writes=[file], users={"1234": 4321}))
        assert os.getxattr(new / "etc/file", "user.of") == side.encode()
        acl = os.getxattr(new / "etc/file", "system.posix_acl_access")[attributes._ACL_HEAD.size :]
        named = [number for tag, _, number in attributes._ACL_ENTRY.iter_unpack(acl) if tag == 2]
        assert named == [4321 if side == "old" else 1234]
        os.setxattr(new / "etc/file", "user.of", b"new")
        os.setxattr(new / "etc/file", "system.posix_acl_access", ACL)


def test_another_system_in_a_tree_keeps_its_numbers_and_takes_the_place_of_the_new_roots(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in ("srv/docker/overlay2/x/file", "srv/site/file", "data/docker/file"):
        write(old / path, "mine", owner=(101, 101))
    write(new / "srv/docker/overlay2/of the new root", "half of a database")
    write(new / "srv/site/of the new root", "stays")
    tree_copy.copy_state(
        str(old), str(new),
        plan(trees=["srv", "data"], foreign=["srv/docker", "data/docker"], users={"101": 103}, groups={"101": 103}),
    )  # fmt: skip
    assert (new / "srv/docker/overlay2/x/file").stat().st_uid == 101
    assert (new / "data/docker/file").stat().st_uid == 101
    assert (new / "srv/site/file").stat().st_uid == 103
    assert sorted(each.name for each in (new / "srv/docker/overlay2").iterdir()) == ["x"]
    assert sorted(each.name for each in (new / "srv/site").iterdir()) == ["file", "of the new root"]


def test_other_systems_are_found_by_what_is_in_them(tmp_path: Path) -> None:
    old = tmp_path / "old"
    for path, owner in {"srv/sid": 0, "home/ann/rootfs": 1000, "srv/deep/guest/root": 0, "srv/given": 0}.items():
        write(old / path / "etc/passwd", "root:x:0:0::/:/bin/sh\n")
        write(old / path / "var/data", "data", owner=(101, 102))
        (old / path / "usr").mkdir()
        os.chown(old / path, owner, owner)
    write(old / "srv/no system/etc/passwd", "text", owner=(7, 7))
    write(old / "srv/sid/srv/nested/etc/passwd", "text", owner=(9, 9))
    (old / "srv/sid/srv/nested/bin").mkdir()
    found = owners.find_owners(str(old), ["home", "srv"], "", ["srv/given"])
    assert sorted(found["systems"]) == ["srv/deep/guest/root", "srv/sid"]
    # The person's own tree counts: what is in it is that person's.
    assert found["users"] == [0, 7, 101, 1000]
    assert not owners.find_owners(str(old), ["srv/sid"])["users"][1:]


def test_immutable_files_are_named(tmp_path: Path) -> None:
    for name, flag in (("immutable", "+i"), ("append", "+a"), ("plain", "")):
        path = write(tmp_path / "home" / name, "text")
        if flag:
            subprocess.run(["chattr", flag, str(path)], check=True)
    try:
        assert sorted(owners.find_owners(str(tmp_path), ["home"])["flagged"]) == ["home/append", "home/immutable"]
    finally:
        subprocess.run(["chattr", "-R", "-i", "-a", str(tmp_path / "home")], check=True)
