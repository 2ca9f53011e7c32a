"""What is a guest's own, carried from one root into another."""

from __future__ import annotations

import base64
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from pipelines.target.payload import attributes, errors, owners, tree_copy
from tests.support.files import write
from tests.support.plans import plan

#: The number of a line of an ACL that names nobody.
_NOBODY = 0xFFFFFFFF


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    for root in (old, new):
        (root / "etc").mkdir(parents=True)
        (root / "home").mkdir()
    return old, new


def owned_by(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_a_tree_arrives_as_it_was_and_stays_where_it_was(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "home/ann/file", "mine", mode=0o640, owner=(1001, 1001))
    os.link(old / "home/ann/file", old / "home/ann/again")
    (old / "home/ann/link").symlink_to("/etc/shadow")
    os.mkfifo(old / "home/ann/pipe")
    with (old / "home/ann/hole").open("wb") as hole:
        hole.truncate(64 << 20)
    os.utime(old / "home/ann/file", (1, 1))
    write(new / "home/ann/other", "of the new root")
    write(new / "home/bob/file", "of the new root")
    tree_copy.copy_state(str(old), str(new), plan(trees=["home"]))
    made = new / "home/ann/file"
    assert (made.read_text(), owned_by(made), made.stat().st_mtime) == ("mine", (1001, 1001, 0o640), 1)
    assert made.stat().st_ino == (new / "home/ann/again").stat().st_ino
    assert (new / "home/ann/link").readlink() == Path("/etc/shadow")
    assert stat.S_ISFIFO((new / "home/ann/pipe").lstat().st_mode)
    assert (new / "home/ann/hole").stat().st_blocks < 1024
    assert (new / "home/ann/other").read_text() == "of the new root"
    assert (new / "home/bob/file").read_text() == "of the new root"
    assert (old / "home/ann/file").read_text() == "mine"


def test_what_the_guest_never_changed_is_the_new_roots_and_what_is_elsewhere_stays(roots: tuple[Path, Path]) -> None:
    old, new = roots
    for name in ("same", "mine"):
        write(old / f"srv/www/{name}", "old", owner=(101, 101))
        write(new / f"srv/www/{name}", "new", owner=(7, 7))
    write(old / "srv/www/kind/file", "a directory")
    write(new / "srv/www/kind", "a file")
    write(new / "srv/www/deep/new", "new", owner=(101, 101))
    write(old / "srv/www/deep/old", "old")
    os.link(old / "srv/www/mine", old / "srv/www/deep/mine")
    (new / "srv/www/out").symlink_to("/")
    write(old / "srv/www/out/file", "a directory")
    tree_copy.copy_state(str(old), str(new), plan(trees=["srv"], left=["srv/www/same"], users={"101": 102}, groups={}))
    www = new / "srv/www"
    assert ((www / "same").read_text(), owned_by(www / "same")[0]) == ("new", 7)
    assert ((www / "mine").read_text(), owned_by(www / "mine")[0]) == ("old", 102)
    assert (www / "mine").stat().st_ino == (www / "deep/mine").stat().st_ino
    assert (www / "kind/file").read_text() == "a directory"
    # What is not carried keeps the owners that it has.
    assert owned_by(www / "deep/new")[0] == 101
    assert not (www / "out").is_symlink()
    assert sorted(path.name for path in www.iterdir()) == ["deep", "kind", "mine", "out", "same"]


def test_a_directory_is_never_left_to_what_is_none(roots: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = roots
    write(old / "srv/www/precious", "mine")
    write(tmp_path / "host/file", "of the host")
    (new / "srv").mkdir()
    (new / "srv/www").symlink_to(tmp_path / "host")
    write(new / "srv/app/new", "new")
    (old / "srv/app").symlink_to("/nowhere")
    tree_copy.copy_state(str(old), str(new), plan(trees=["srv"], left=["srv/www", "srv/app"]))
    assert (new / "srv/www/precious").read_text() == "mine"
    assert not (new / "srv/www").is_symlink()
    # What the guest never changed is the new root's, whatever it is there.
    assert (new / "srv/app/new").read_text() == "new"
    assert [path.name for path in (tmp_path / "host").iterdir()] == ["file"]


def test_a_tree_that_nobody_touched_is_the_new_roots(roots: tuple[Path, Path]) -> None:
    old, new = roots
    for root, name in ((old, "old"), (new, "new")):
        write(root / "srv/www/index", name)
        write(root / f"srv/www/of {name}", name)
    write(old / "srv/only here/file", "old")
    tree_copy.copy_state(str(old), str(new), plan(trees=["srv"], untouched=["srv/www", "srv/only here"]))
    assert sorted(path.name for path in (new / "srv/www").iterdir()) == ["index", "of new"]
    assert (new / "srv/www/index").read_text() == "new"
    assert (new / "srv/only here/file").read_text() == "old"


def test_programs_data_comes_from_one_side_alone(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "var/lib/db/data", "old", owner=(101, 101))
    write(new / "var/lib/db/data", "new")
    write(new / "var/lib/db/journal", "new")
    tree_copy.copy_state(str(old), str(new), plan(whole=["var/lib/db", "var/lib/never", "no/such"], users={"101": 102}))
    assert [path.name for path in (new / "var/lib/db").iterdir()] == ["data"]
    assert ((new / "var/lib/db/data").read_text(), owned_by(new / "var/lib/db/data")[0]) == ("old", 102)
    assert not (new / "no").exists()


def test_empty_directories_take_the_place_of_nothing(roots: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = roots
    for path in ("usr/lib/app/plugins", "usr/lib/app/cache/own", "usr/lib/out/x"):
        (old / path).mkdir(parents=True)
    os.chown(old / "usr/lib/app/cache/own", 101, 101)
    (old / "usr/lib/app/cache/own").chmod(0o700)
    write(new / "usr/lib/app/plugins/core.so", "of a package")
    write(new / "usr/lib/app/cache/file", "of a package")
    (tmp_path / "host").mkdir()
    (new / "usr/lib/out").symlink_to(tmp_path / "host")
    tree_copy.copy_state(
        str(old), str(new), plan(empty=["usr/lib/app", "usr/lib/out", "usr/lib/out/x"], users={"101": 102})
    )
    assert (new / "usr/lib/app/plugins/core.so").read_text() == "of a package"
    assert (new / "usr/lib/app/cache/file").read_text() == "of a package"
    assert owned_by(new / "usr/lib/app/cache/own") == (102, 0 + 101, 0o700)
    assert list((tmp_path / "host").iterdir()) == []


def test_a_directory_on_the_way_is_made_as_it_was(roots: tuple[Path, Path]) -> None:
    """A secret is as well hidden as before."""
    old, new = roots
    write(old / "etc/wireguard/privatekey", "secret")
    write(old / "var/lib/vault/db/data", "secret")
    for path in ("etc/wireguard", "var/lib/vault"):
        os.chown(old / path, 101, 0)
        (old / path).chmod(0o700)
    tree_copy.copy_state(
        str(old), str(new), plan(copies=["etc/wireguard/privatekey"], whole=["var/lib/vault/db"], users={"101": 102})
    )
    assert owned_by(new / "etc/wireguard") == owned_by(new / "var/lib/vault") == (102, 0, 0o700)
    assert (new / "var/lib/vault/db/data").read_text() == "secret"


def test_owners_follow_their_names(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "srv/swapped/a", "a", mode=0o4755, owner=(101, 101))
    write(old / "srv/swapped/b", "b", owner=(102, 102))
    os.link(old / "srv/swapped/a", old / "srv/swapped/a2")
    os.setxattr(old / "srv/swapped/b", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    os.lchown(_link(old / "srv/swapped/link"), 101, 102)
    packed = attributes._ACL_HEAD.pack(2) + b"".join(
        attributes._ACL_ENTRY.pack(*each)
        for each in ((1, 6, _NOBODY), (2, 4, 101), (4, 4, _NOBODY), (8, 4, 102), (16, 6, _NOBODY), (32, 4, _NOBODY))
    )  # fmt: skip
    os.setxattr(write(old / "srv/swapped/acl", "acl"), "system.posix_acl_access", packed)
    numbers = {"101": 102, "102": 101}
    tree_copy.copy_state(str(old), str(new), plan(trees=["srv"], users=numbers, groups=numbers))
    swapped = new / "srv/swapped"
    assert owned_by(swapped / "a") == owned_by(swapped / "a2") == (102, 102, 0o4755)
    assert owned_by(swapped / "b") == (101, 101, 0o644)
    assert os.getxattr(swapped / "b", "security.capability")
    assert owned_by(swapped / "link")[:2] == (102, 101)
    acl = os.getxattr(swapped / "acl", "system.posix_acl_access")[attributes._ACL_HEAD.size :]
    assert [number for tag, _, number in attributes._ACL_ENTRY.iter_unpack(acl) if tag in (2, 8)] == [102, 101]


def _link(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


def test_another_systems_numbers_stay(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "var/lib/docker/overlay2/x/etc/passwd", "of a container", owner=(101, 101))
    write(old / "var/log/app.log", "log", owner=(101, 101))
    trees = ["var/lib/docker", "var/log"]
    tree_copy.copy_state(str(old), str(new), plan(trees=trees, foreign=trees[:1], users={"101": 999}, groups={}))
    assert owned_by(new / "var/lib/docker/overlay2/x/etc/passwd")[0] == 101
    assert owned_by(new / "var/log/app.log")[0] == 999


def test_single_entries_and_files(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "etc/app/conf", "mine", mode=0o600, owner=(101, 0))
    write(old / "etc/app/left", "not asked for")
    (old / "etc/app").chmod(0o750)
    (old / "etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    write(new / "etc/localtime", "a file")
    write(new / "etc/gone", "gone")
    write(new / "etc/gone.d/file", "gone")
    write(new / "etc/passwd", "new")
    content = base64.b64encode(b"merged").decode()
    tree_copy.copy_state(str(old), str(new), plan(
        copies=["etc/app/conf", "etc/localtime", "etc/app", "etc/never"],
        removals=["etc/gone", "etc/gone.d", "etc/no/x"],
        users={"101": 102}, writes=[{"path": "etc/passwd", "mode": 0o640, "uid": 0, "gid": 42, "content": content,
                                       "attributes": "new"}],
    ))  # fmt: skip
    assert owned_by(new / "etc/app/conf") == (102, 0, 0o600)
    assert owned_by(new / "etc/app")[2] == 0o750
    assert not (new / "etc/app/left").exists()
    assert (new / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/UTC")
    assert not (new / "etc/gone").exists()
    assert not (new / "etc/gone.d").exists()
    assert ((new / "etc/passwd").read_text(), owned_by(new / "etc/passwd")) == ("merged", (0, 42, 0o640))


def test_links_lead_nowhere(roots: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = roots
    secret = write(tmp_path / "host/secret", "of the host")
    (old / "home").rmdir()
    (old / "home").symlink_to(tmp_path / "host")
    tree_copy.copy_state(str(old), str(new), plan(trees=["home"]))
    assert (new / "home").readlink() == tmp_path / "host"
    for root, other in ((old, new), (new, old)):
        (root / "opt").symlink_to(tmp_path / "host")
        (other / "opt").mkdir()
        write(other / "opt/secret", "planted")
        with pytest.raises(errors.Refused, match="opt: a part of it is not a directory"):
            tree_copy.copy_state(str(old), str(new), plan(copies=["opt/secret"]))
        with pytest.raises(errors.Refused):
            tree_copy.copy_state(str(old), str(new), plan(writes=[
                {"path": "home/secret", "mode": 0o644, "uid": 0, "gid": 0, "content": "",
                 "attributes": "new"}]))  # fmt: skip
        (root / "opt").unlink()
        (other / "opt/secret").unlink()
        (other / "opt").rmdir()
    assert secret.read_text() == "of the host"
    for path in ("../x", "a/../../x", "", "etc/.."):
        with pytest.raises(errors.Refused, match="not a path in a root"):
            tree_copy.copy_state(str(old), str(new), plan(removals=[path]))


def test_owners_are_those_of_all_that_is_to_be_kept(roots: tuple[Path, Path]) -> None:
    old, _ = roots
    write(old / "srv/a", "a" * 100_000, owner=(105, 106))
    found = owners.find_owners(str(old), ["srv", "nothing"])
    assert (found["users"], found["groups"], list(found["sizes"])) == ([0, 105], [0, 106], ["srv"])
    taken = ["du", "--summarize", "--block-size=1", str(old / "srv")]
    assert found["sizes"]["srv"] == int(subprocess.run(taken, capture_output=True, check=True).stdout.split()[0])


def test_owners_of_what_is_on_the_way_are_looked_at_too(roots: tuple[Path, Path]) -> None:
    old, new = roots
    write(old / "opt/app/data", "mine")
    os.chown(old / "opt/app", 105, 106)
    assert owners.find_owners(str(old), ["opt/app/data"])["users"] == [0, 105]
    assert owners.find_owners(str(old), ["opt/app/gone"])["users"] == []
    # Where it is there it is not made.
    (new / "opt/app").mkdir(parents=True)
    assert owners.find_owners(str(old), ["opt/app/data"], str(new))["users"] == [0]


def test_a_copy_that_fails_says_why(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = roots
    monkeypatch.setattr(tree_copy, "_CP", ("cp", "--archive", "--no-such-option"))
    with pytest.raises(errors.Refused, match="help"):
        tree_copy.copy_state(str(old), str(new), plan(trees=["home"]))
