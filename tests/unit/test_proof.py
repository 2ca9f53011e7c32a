"""A root that a guest is about to get is what the plan says, from the survey to the last copy, on real trees."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.host import lines
from pipelines.merge import baselines, copy_plan, proof, upgrade_plan
from pipelines.merge.baselines import Configured, Inventory
from pipelines.merge.choices import Choices
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.target import programs
from pipelines.target.payload.copy_plan import CopyPlan
from pipelines.target.target import Local
from tests.support.files import MADE, write
from tests.support.roots import BASE, dpkg, looked

PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:101:101::/:/bin/false\n"
GROUP = "root:x:0:\nweb:x:101:\n"


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Return a guest's root, and the one that it is to move to, which has another number for a user."""
    old = tmp_path / "old"
    dpkg(old, "base", {**BASE, "etc/both.conf": "a\nb\nc\nd\ne\nf\n"}, conffiles=("etc/base.conf",))
    write(old / "etc/passwd", PASSWD)
    write(old / "etc/group", GROUP)
    write(old / "etc/theirs.conf", "then")
    write(old / "srv/gone", "of the image")
    new = tmp_path / "new"
    shutil.copytree(old, new, symlinks=True)
    write(new / "etc/passwd", PASSWD.replace(":101:101", ":103:103") + "more:x:101:101::/:/b\n")
    write(new / "etc/group", GROUP.replace(":101", ":103") + "more:x:101:\n")
    write(new / "etc/both.conf", "a\nb\nc\nd\ne\ntheirs\n")
    write(new / "etc/theirs.conf", "now")
    write(new / "etc/new.conf", "of the new root")
    return old, new


def select(root: Path, wanted: str) -> None:
    """Write what dpkg is told of all packages."""
    status = root / "var/lib/dpkg/status"
    status.write_text(re.sub("^Status: [a-z]+", f"Status: {wanted}", status.read_text(), flags=re.MULTILINE))


def live(old: Path) -> None:
    """Do what somebody does to a guest."""
    write(old / "etc/both.conf", "ours\nb\nc\nd\ne\nf\n")
    write(old / "etc/mine/deep.conf", "mine")
    os.chown(old / "etc/mine/deep.conf", 101, 101)
    (old / "etc/plain.conf").unlink()
    os.setxattr(write(old / "etc/acl.conf", "mine"), "user.mine", b"value")
    os.mkfifo(old / "etc/pipe")
    (old / "etc/pipe").chmod(0o620)
    os.mknod(old / "etc/socket", stat.S_IFSOCK | 0o600)
    os.mknod(old / "etc/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.setxattr(old / "etc/base.conf", "user.mine", b"value")
    (old / "srv/gone").unlink()
    write(old / "etc/docker/daemon.json", '{"data-root": "/srv/docker"}')
    for path in ("srv/docker/x", "srv/site", "srv/sid/var/x"):
        os.chown(write(old / path, "mine"), 101, 101)
    write(old / "srv/sid/etc/passwd", "of another system")
    (old / "srv/sid/usr").mkdir()
    select(old, "hold")


def move(
    old: Path, new: Path, base: Inventory, theirs: Inventory, ours: Inventory | None = None
) -> tuple[UpgradePlan, Inventory]:
    ours = ours or looked(old, base)
    read = (ours.contents.get, theirs.contents.get)
    planned = upgrade_plan.plan(base, ours, theirs, "debian", Choices(), read, lines.merge)
    owners = programs.find_owners(Local(), str(old), str(new), copy_plan.list_copied_paths(planned), planned.systems)
    planned = replace(planned, systems={**dict.fromkeys(owners["systems"], ""), **planned.systems})
    programs.copy_state(Local(), str(old), str(new), copy_plan.build_copy_plan(planned, base, ours, theirs))
    return planned, arrived(new)


def arrived(new: Path) -> Inventory:
    programs.save_inventory(Local(), str(new), MADE, str(new.parent / "arrived"), links=False)
    return baselines.parse((new.parent / "arrived").read_bytes())


def test_what_the_plan_says_is_what_the_new_root_has(roots: tuple[Path, Path]) -> None:
    old, new = roots
    base, theirs = looked(old), looked(new)
    live(old)
    planned, now = move(old, new, base, theirs)
    assert not planned.has_open_decisions
    assert list(proof.list_differences(planned, theirs, now)) == []
    kinds = {name: stat.filemode((new / "etc" / name).lstat().st_mode) for name in ("pipe", "socket", "device")}
    assert kinds == {"pipe": "prw--w----", "socket": "srw-------", "device": "crw-------"}
    assert (new / "etc/device").stat().st_rdev == os.makedev(1, 3)
    owners = {path: (new / path).stat().st_uid for path in ("srv/docker/x", "srv/sid/var/x", "srv/site")}
    assert owners == {"srv/docker/x": 101, "srv/sid/var/x": 101, "srv/site": 103}
    assert (new / "etc/mine/deep.conf").stat().st_uid == 103
    assert os.getxattr(new / "etc/base.conf", "user.mine") == b"value"
    assert "Status: hold ok installed" in (new / "var/lib/dpkg/status").read_text()
    # And back, with another record of what it was.
    write(new / "etc/since.conf", "since")
    move(new, old, now, looked(old, now))
    assert (old / "etc/since.conf").read_text() == "since"
    assert stat.S_ISFIFO((old / "etc/pipe").lstat().st_mode)


def test_a_guest_with_a_record_of_an_earlier_version_moves(roots: tuple[Path, Path]) -> None:
    old, new = roots
    os.setxattr(old / "etc/base.conf", "user.then", b"value")
    base, theirs = baselines.drop_attributes(looked(old)), looked(new)
    live(old)
    known = [path for path, entry in base.unowned.items() if entry.kind != "tree"]
    ours = baselines.drop_attributes(baselines.parse(programs.take_inventory(Local(), str(old), MADE, known)))
    planned, now = move(old, new, base, theirs, ours)
    assert list(proof.list_differences(planned, theirs, now)) == []
    assert stat.S_ISFIFO((new / "etc/pipe").lstat().st_mode)


@pytest.mark.parametrize(("damage", "said"), [
    (lambda new: (new / "etc/pipe").unlink(), "/etc/pipe is not the guest's"),
    (lambda new: (new / "etc/mine/deep.conf").chmod(0o600), "/etc/mine/deep.conf is not the guest's"),
    (lambda new: os.chown(new / "etc/mine/deep.conf", 101, 101), "/etc/mine/deep.conf is not the guest's"),
    (lambda new: write(new / "etc/plain.conf", "plain\n"), "/etc/plain.conf is not the guest's"),
    (lambda new: write(new / "etc/both.conf", "x"), "/etc/both.conf has not the lines of both"),
    (lambda new: write(new / "etc/new.conf", "x"), "/etc/new.conf is not the new root's"),
    (lambda new: write(new / "etc/theirs.conf", "then"), "/etc/theirs.conf is not the new root's"),
    (lambda new: write(new / "etc/more", "x"), "/etc/more is not the new root's"),
    (lambda new: write(new / "etc/passwd", PASSWD), "/etc/passwd has not the accounts of both"),
    (lambda new: write(new / "srv/gone", "x"), "/srv/gone is there, and was to be taken away"),
    (lambda new: dpkg(new, "other", {}), "other packages"),
    (lambda new: select(new, "install"), "hold of the package base"),
])  # fmt: skip
def test_what_is_otherwise_is_named(roots: tuple[Path, Path], damage: Callable[[Path], object], said: str) -> None:
    old, new = roots
    base, theirs = looked(old), looked(new)
    live(old)
    planned, _ = move(old, new, base, theirs)
    damage(new)
    assert list(proof.list_differences(planned, theirs, arrived(new))) == [said]


def test_an_earlier_carry_that_left_special_files_out_is_found(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = roots
    base, theirs = looked(old), looked(new)
    live(old)
    build = copy_plan.build_copy_plan

    def without(*arguments: object) -> CopyPlan:
        plan = build(*arguments)  # type: ignore[arg-type]
        return CopyPlan(**{**plan, "copies": [each for each in plan["copies"] if each != "etc/pipe"]})

    monkeypatch.setattr(copy_plan, "build_copy_plan", without)
    planned, now = move(old, new, base, theirs)
    assert list(proof.list_differences(planned, theirs, now)) == ["/etc/pipe is not the guest's"]


def test_files_with_the_guests_name_in_place_of_the_builders_are_the_new_roots(tmp_path: Path) -> None:
    def told(text: str) -> Inventory:
        content = text.encode()
        entry = Configured("file", 0o644, 0, 0, content=hashlib.sha256(content).hexdigest(), size=len(content))
        etc = {"etc/mailname": entry} if text else {}
        return Inventory((), etc, {}, (), {"etc/mailname": content, "etc/hostname": b"web\n"})

    accounts = SimpleNamespace(files={}, users={}, groups={})
    move = cast(Any, SimpleNamespace(ours=told(""), etc=(), accounts=accounts, went=(), selections={}))
    theirs = told("virtroot-build.localdomain\n")
    assert list(proof.list_differences(move, theirs, told("web.localdomain\n"))) == []
    assert list(proof.list_differences(move, theirs, theirs)) == []
    assert list(proof.list_differences(move, theirs, told("db.localdomain\n"))) == [
        "/etc/mailname is not the new root's"
    ]
