"""Which way a root is made on which pool; this machine's file systems and stand-ins for others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.pool import base_trees, clone_methods
from pipelines.pool.base_trees import BaseTree
from pipelines.target.target import Local


@dataclass(frozen=True)
class Pool(Local):
    """A machine whose pool has subvolumes or reflinks, or neither; nothing is run there."""

    subvolumes: bool = False
    reflinks: bool = False
    source_is_subvolume: bool = True

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        known = {
            "possible": self.subvolumes,
            "is": self.subvolumes and self.source_is_subvolume,
            "reflinks": self.reflinks,
        }
        return Completed(tuple(argv), 0 if known[argv[3]] else 1, b"", b"")


BTRFS, XFS, EXT4 = Pool(subvolumes=True, reflinks=True), Pool(reflinks=True), Pool()


@pytest.mark.parametrize(
    ("pool", "asked", "way"),
    [
        (BTRFS, "auto", "snapshot"),
        (BTRFS, "reflink", "reflink"),
        (BTRFS, "copy", "copy"),
        (XFS, "auto", "reflink"),
        (XFS, "overlay", "overlay"),
        (EXT4, "auto", "copy"),
        (EXT4, "overlay", "overlay"),
    ],
)
def test_the_best_way_is_taken_or_the_one_that_is_asked_for(pool: Pool, asked: str, way: str) -> None:
    assert clone_methods.choose_method(pool, "/pool", asked) == way


@pytest.mark.parametrize(
    ("pool", "asked", "why"),
    [
        (XFS, "snapshot", "needs subvolumes"),
        (EXT4, "reflink", "needs a file system with reflinks"),
        (BTRFS, "overlay", "needs unique inode numbers"),
    ],
)
def test_what_a_pool_cannot_do_is_refused(pool: Pool, asked: str, why: str) -> None:
    with pytest.raises(VirtrootError, match=f"--clone {asked} in /pool: {asked} {why}"):
        clone_methods.choose_method(pool, "/pool", asked)


def test_a_root_that_is_no_subvolume_is_copied_by_reflinks() -> None:
    unpacked_before = Pool(subvolumes=True, reflinks=True, source_is_subvolume=False)
    assert clone_methods.choose_method(unpacked_before, "/pool", "auto", source="/pool/root.web") == "reflink"
    with pytest.raises(VirtrootError, match="needs subvolumes"):
        clone_methods.choose_method(unpacked_before, "/pool", "snapshot", source="/pool/root.web")


def test_a_directory_that_mount_would_misread_has_no_layers() -> None:
    with pytest.raises(VirtrootError, match="does not support directories with one of"):
        clone_methods.choose_method(EXT4, "/srv/a:b", "overlay")


def test_a_way_that_is_none_is_refused() -> None:
    assert clone_methods.check_method("auto") == "auto"
    with pytest.raises(VirtrootError, match="invalid clone method"):
        clone_methods.check_method("hardlink")


def test_a_copy_shares_nothing_and_keeps_what_there_is(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "root"
    tree.mkdir(mode=0o711)
    (tree / "file").write_text("content")
    (tree / "again").hardlink_to(tree / "file")
    (tree / "out").symlink_to("/etc")
    clone_methods.clone(Local(), "copy", str(tree), str(root))
    assert root.stat().st_mode & 0o777 == 0o711
    assert (root / "file").stat().st_ino == (root / "again").stat().st_ino != (tree / "file").stat().st_ino
    assert (root / "out").is_symlink()
    with pytest.raises(VirtrootError, match="cannot copy"):
        clone_methods.clone(Local(), "copy", str(tmp_path / "gone"), str(tmp_path / "other"))


@dataclass
class Machine(Hypervisor):
    """libvirt with domains that name the paths a test says."""

    named: tuple[str, ...] = ()

    def find_domains_using(self, path: str, *, besides: str = "", active: bool = False) -> list[ListedDomain]:
        return [ListedDomain("uuid", "web") for each in self.named if each == path]


def test_golden_trees_that_no_guest_names_go(tmp_path: Path) -> None:
    digest = "0123456789abcdef"
    trees = [tmp_path / f"golden.{name}.{digest}" for name in ("a", "b", "c.d")]
    for path in (*trees, tmp_path / "golden.mine", tmp_path / f".golden.a.{digest}@1", tmp_path / "root.web"):
        path.mkdir()
    (tmp_path / f"golden.e.{digest}").symlink_to(trees[0])
    machine = Machine(Local(), named=(str(trees[1]),))
    assert base_trees.find_unused(machine, str(tmp_path), []) == [str(trees[0]), str(trees[2])]
    assert base_trees.find_unused(machine, str(tmp_path), ["c.d", "b"]) == [str(trees[2])]
    assert base_trees.find_unused(machine, str(tmp_path), ["c"]) == []


@pytest.mark.parametrize(
    "described",
    [
        "snapshots.web/3/about",
        "former.web/20260101T000000Z/about/made",
        "former.web/20260101T000000Z/next/made",
        ".root.web@12345678-upgrade/coming",
        ".root.web@12345678-upgrade/next/made",
        ".root.web@12345678-snapshots/3/about",
        ".root.web@12345678-formers/20260101T000000Z/about/made",
    ],
)
def test_a_golden_tree_below_a_root_that_is_under_way_stays(tmp_path: Path, described: str) -> None:
    """A switch or a removal that was cut short has the root under a hidden name, and no domain names its tree."""
    tree = tmp_path / "golden.a.0123456789abcdef"
    tree.mkdir()
    machine = Machine(Local())
    assert base_trees.find_unused(machine, str(tmp_path), []) == [str(tree)]
    about = tmp_path / described
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"golden": str(tree), "lower": "digest"}))
    assert base_trees.find_unused(machine, str(tmp_path), []) == []
    assert not base_trees.delete(machine, str(tree))
    assert tree.is_dir()


def test_what_a_guest_has_in_a_hidden_root_describes_nothing(tmp_path: Path) -> None:
    """A guest could have a tree kept, or have a file of the host read."""
    tree = tmp_path / "golden.a.0123456789abcdef"
    tree.mkdir()
    for name in (".root.web@12345678/about/made", ".root.web@12345678-upgrade/root/about"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps({"golden": str(tree), "lower": "digest"}))
    assert base_trees.find_unused(Machine(Local()), str(tmp_path), []) == [str(tree)]


def test_the_tree_is_in_the_directory_of_a_golden_tree() -> None:
    assert BaseTree("/pool/golden.web.0", "digest").tree == "/pool/golden.web.0/root"
