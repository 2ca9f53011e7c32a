"""Baselines of roots: how they are written, read, and compared when they are older or damaged."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import create_autospec

import pytest

from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.merge import baselines
from pipelines.merge.changes import compare_inventories
from pipelines.pool.base_trees import BaseTree
from pipelines.target import programs
from pipelines.target.payload import inventory
from pipelines.target.target import Local
from tests.support.artifacts import made
from tests.support.files import MADE, write
from tests.support.guests import make_guest
from tests.support.roots import find_changes, list_file_changes, looked, root

__all__ = ["root"]


@pytest.mark.parametrize("damage", ["torn", "garbage", "of another version", "gone"])
def test_an_unreadable_baseline_is_created_again(root: Path, tmp_path: Path, damage: str) -> None:
    pool, boot = tmp_path / "pool", tmp_path / "boot"
    pool.mkdir()
    boot.mkdir()
    base = looked(root)
    record = boot / "pristine.tar.gz"
    whole = (root.parent / "pristine").read_bytes()
    with tarfile.open(record, "w:gz") as tar:
        tar.add(write(tmp_path / "survey.json", '{"packages": []}'), "survey.json")
    if damage in ("torn", "garbage"):
        record.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"no archive")
    elif damage == "gone":
        record.unlink()
    artifact = made(tmp_path, "web", "20261101T030000Z-1")
    Local().run(["tar", "--create", "--zstd", f"--file={artifact.tarball}", "--directory", str(root), "."])
    manifest = artifact.manifest.model_copy(update={"source_date_epoch": MADE})
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local())
    guest = make_guest(hypervisor, root=f"{pool}/root.web", boot=str(boot))
    assert baselines.get_baseline(guest, manifest, artifact) == base
    assert list(pool.iterdir()) == []
    assert baselines.parse(record.read_bytes()) == base
    record.unlink()
    with pytest.raises(VirtrootError, match="has no baseline, and its artifact"):
        baselines.get_baseline(guest, manifest, None)


def test_the_inventory_of_a_base_tree_is_taken_once(root: Path, tmp_path: Path) -> None:
    golden, boots = BaseTree(str(tmp_path), "digest"), [tmp_path / name for name in ("boot1", "boot2")]
    manifest = made(tmp_path / "output", "web", "20261101T030000Z-1").manifest
    for boot in boots:
        baselines.write_baseline(Local(), "/nonexistent", manifest, str(boot), golden)
        write(root / "etc/base.conf", "changed afterwards\n")
    assert boots[0].joinpath("pristine.tar.gz").read_bytes() == boots[1].joinpath("pristine.tar.gz").read_bytes()
    assert b"as it came\n" in baselines.parse((boots[1] / "pristine.tar.gz").read_bytes()).contents.values()
    assert (boots[1] / "pristine.tar.gz").stat().st_mode & 0o777 == 0o600


def test_an_older_baseline_is_compared_in_the_fields_that_it_has(root: Path) -> None:
    base = looked(root)
    older = replace(
        base,
        owned=None,
        missing=None,
        unowned={path: replace(entry, mode=None, gid=None) for path, entry in base.unowned.items()},
    )
    (root / "usr/bin/true").unlink()
    os.chown(root / "usr/share/made/index", 33, 33)
    assert list_file_changes(find_changes(root, older)) == []


def test_the_install_inventory_takes_targets_of_links_from_the_baseline(root: Path, tmp_path: Path) -> None:
    """The install inventory has no targets. A link that was created again with the same target is not a change."""
    boot = tmp_path / "boot"
    boot.mkdir()
    for name in ("same", "again", "other", "own"):
        (root / "opt" / name).symlink_to("somewhere")
        os.utime(root / "opt" / name, (MADE, MADE if name != "own" else MADE - 9), follow_symlinks=False)
    (root / "usr/bin/sh").symlink_to("dash")
    os.utime(root / "usr/bin/sh", (MADE, MADE), follow_symlinks=False)
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local())
    guest = make_guest(hypervisor, boot=str(boot))
    assert baselines.find_install_inventory(guest) is None
    programs.save_inventory(Local(), str(root), MADE, str(boot / "arrived.tar.gz"), links=False)
    os.utime(root / "opt/own", (MADE, MADE), follow_symlinks=False)
    programs.save_inventory(Local(), str(root), MADE, str(boot / "pristine.tar.gz"))
    os.utime(root / "opt/own", (MADE, MADE - 9), follow_symlinks=False)
    arrived = baselines.find_install_inventory(guest)
    assert arrived is not None
    assert {path: entry.content for path, entry in arrived.unowned.items() if entry.kind == "link"} == {
        "opt/again": "somewhere", "opt/other": "somewhere", "opt/own": "", "opt/same": "somewhere",
        "usr/bin/sh": "dash"}  # fmt: skip
    for name, to in {"again": "somewhere", "other": "elsewhere"}.items():
        (root / "opt" / name).unlink()
        (root / "opt" / name).symlink_to(to)
    assert list_file_changes(find_changes(root, arrived)) == [("changed", "opt/other", "leads to elsewhere")]


def test_an_older_baseline_of_a_base_tree_is_created_again(root: Path, tmp_path: Path) -> None:
    golden = BaseTree(str(tmp_path), "digest")
    root.rename(golden.tree)
    manifest = made(tmp_path / "output", "web", "20261101T030000Z-1").manifest
    with tarfile.open(tmp_path / "pristine.tar.gz", "w:gz") as tar:
        older = '{"packages": [], "etc": {}, "unowned": {}, "edited": []}'
        tar.add(write(tmp_path / "survey.json", older), "survey.json")
    baselines.write_baseline(Local(), "/nonexistent", manifest, str(tmp_path / "boot"), golden)
    assert baselines.parse((tmp_path / "boot/pristine.tar.gz").read_bytes()).owned is not None


def test_a_baseline_without_attributes_is_compared_without_them(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "etc/pipe")
    os.mkfifo(root / "opt/pipe")
    for path in ("etc/plain.conf", "usr/bin/true"):
        os.setxattr(root / path, "user.mine", b"value")
    base = looked(root)
    told_then, contents = inventory.take(str(root), MADE)
    del told_then["attributes"], told_then["decisions"]
    for part in ("etc", "unowned", "owned"):
        for entry in cast("dict[str, dict[str, object]]", told_then[part]).values():
            entry.pop("attributes", None)
            if entry["kind"] == "other":
                del entry["content"]
    older = io.BytesIO()
    inventory.pack(told_then, contents, older)
    then = baselines.parse(older.getvalue())
    assert not then.has_attributes
    manifest = made(tmp_path, "web", "20261101T030000Z-1").manifest.model_copy(update={"source_date_epoch": MADE})
    assert not compare_inventories(then, baselines.take_inventory(Local(), str(root), manifest, then), "debian")
    assert baselines.take_inventory(Local(), str(root), manifest, base).etc["etc/plain.conf"].attributes
