"""Many guests of one golden root, on pools whose file systems share what guests do not change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipelines.guest.guest import get
from pipelines.libvirt.connect import connect
from pipelines.target import programs
from pipelines.target.target import Target
from tests.conftest import Virtroot
from tests.support.pools import pool_on

POOL = "/var/lib/libvirt/filesystems"

NAMES = [f"clone{number}" for number in range(5)]

#: The best way that each has to make a root.
WORDS = {"btrfs": "a snapshot", "xfs": "a copy that shares its blocks (reflink)"}

#: Bytes that a root needs of its own: what is written as its identity, and the file system's own tables.
OWN = {"btrfs": 6 << 20, "xfs": 12 << 20}


@pytest.fixture(scope="module", params=["btrfs", "xfs"])
def pool(request: pytest.FixtureRequest, inv: Virtroot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Virtroot]:
    with pool_on(request.param, inv, tmp_path_factory.mktemp(request.param)) as own:
        yield own


def target(pool: Virtroot) -> Target:
    return connect(pool.settings).target


def used(pool: Virtroot) -> int:
    """Return how many bytes the pool's file system holds."""
    count = 'sync -f "$1"; df --block-size=1 --output=used "$1" | tail -n 1'
    return int(target(pool).run(["sh", "-c", count, "used", POOL]).text)


def entries(pool: Virtroot) -> set[str]:
    return set(target(pool).run(["ls", "-A", POOL]).text.split()) - {".virtroot"}


def test_clones_live_and_go_in_any_order(pool: Virtroot, quick: Path) -> None:
    kind = pool.embedded.rpartition("-")[2]
    word = WORDS[kind]
    artifact = ("--artifact", str(quick), "--ssh-key", "none", "--cache", "always")
    said = pool("install", NAMES[0], *artifact).stderr
    assert "unpacking the base tree" in said
    assert f"making the root: {word} of the base tree" in said
    (golden,) = (name for name in entries(pool) if name.startswith("golden."))
    before = used(pool)
    for name in NAMES[1:3]:
        assert "unpacking" not in pool("install", name, *artifact).stderr
    for source, name in ((NAMES[1], NAMES[3]), (NAMES[3], NAMES[4])):
        assert f"{word} of the root of {source}" in pool("clone", source, name).stderr
    assert entries(pool) == {golden, *(f"root.{name}" for name in NAMES)}
    assert used(pool) - before < 4 * OWN[kind]
    listed = {row["name"]: row for row in json.loads(pool("list", "--json").stdout)}
    for name in NAMES:
        # btrfs keeps what is small inside its tables, and does not say who shares those.
        assert 100 << 20 < listed[name]["size"] < listed[name]["shared"] + (32 << 20)

    # A clone of a clone shows what all do; `test_reached` has two guests of one root side by side.
    lives = NAMES[4]
    pool("start", lives)
    change = f"echo {lives} > /root/mine; rm /etc/issue; cat /root/mine"
    assert pool("exec", lives, "--", "sh", "-c", change).stdout == f"{lives}\n"
    tree = f"{POOL}/{golden}/root"
    assert target(pool).run(["sh", "-c", 'ls "$1/root"; ls "$1/etc/issue"', "look", tree]).text.split() == [
        f"{tree}/etc/issue"
    ]
    if kind == "btrfs":
        pool("verify", lives)

    pool("prune", "--yes")
    assert golden in entries(pool)
    restored(pool, lives, word, boot=False)
    for name in [*NAMES[2::-1], *NAMES[3:]]:
        pool("remove", name, "--yes")
    assert entries(pool) == {golden}
    assert "pruned 1 " in pool("prune", "--yes").stderr
    assert entries(pool) == set()


@pytest.mark.long
def test_a_guest_that_runs_is_stopped_for_a_snapshot_and_booted_again(pool: Virtroot, quick: Path) -> None:
    pool("install", "lives", "--artifact", str(quick), "--ssh-key", "none", "--cache", "always")
    pool("start", "lives")
    pool("exec", "lives", "--", "sh", "-c", "echo lives > /root/mine; sync")
    restored(pool, "lives", WORDS[pool.embedded.rpartition("-")[2]], boot=True)
    pool("stop", "lives", "--force")
    pool("remove", "lives", "--yes")
    pool("prune", "--yes")


def restored(pool: Virtroot, name: str, word: str, *, boot: bool) -> None:
    """Take a snapshot of a guest that runs, spoil its root, and put the snapshot back."""
    assert "is running" in pool("snapshot", name, "early", status=2).stderr
    if boot:
        said = pool("snapshot", name, "early", "--restart").stderr
        pool("exec", name, "--", "sh", "-c", "echo spoilt > /root/mine; sync")
    else:
        pool("stop", name, "--force")
        said = pool("snapshot", name, "early").stderr
        target(pool).run(["rm", f"{POOL}/root.{name}/root/mine"])
    assert f"snapshot early of {name}, {word}" in said
    mine = f"root.{name}/root/mine"
    before = target(pool).run(["cat", f"{POOL}/{mine}"], check=False).text
    pool("restore", name, "early", *(["--restart"] if boot else []))
    assert target(pool).run(["cat", f"{POOL}/{mine}"]).text == name
    if boot:
        assert pool("exec", name, "--", "cat", "/root/mine").stdout == f"{name}\n"
    (early, replaced) = json.loads(pool("snapshots", name, "--json").stdout)
    assert early["name"] == "early"
    kept = f"{POOL}/snapshots.{name}/{replaced['name']}/root/root/mine"
    assert target(pool).run(["cat", kept], check=False).text == before != name
    pool("snapshots", name, "--remove", replaced["name"], "--yes")
    assert [each["name"] for each in json.loads(pool("snapshots", name, "--json").stdout)] == ["early"]


#: What somebody has in a root, and what somebody hostile has.
OWNED = """
cd "$1"
echo mine > etc/mine; echo mine > srv/mine; head -c 8M /dev/urandom > srv/much
mknod srv/null c 1 3; ln -s / srv/out; rm -r var/mail; ln -s ../../../../../../etc var/mail
"""

#: Leaves so many bytes. btrfs gives back the room of deleted subvolumes later, unless it is waited for.
FILL = """
[ "$(stat --file-system --format=%T "$1")" != btrfs ] || btrfs subvolume sync "$1"
left=$(df --block-size=1 --output=avail "$1" | tail -n 1)
fallocate --length "$((left - $2))" "$1/fill"
"""


def test_an_upgrade_costs_what_differs_and_a_full_disk_changes_nothing(pool: Virtroot, quick: Path) -> None:
    kind = pool.embedded.rpartition("-")[2]
    artifact = ("--artifact", str(quick), "--ssh-key", "none")
    pool("install", "moves", *artifact)
    root = f"{POOL}/root.moves"
    target(pool).run(["sh", "-ec", OWNED, "owned", root])
    there = entries(pool)
    target(pool).run(["sh", "-ec", FILL, "fill", POOL, str(100 << 20)])
    full = pool("upgrade", "moves", "--to", str(quick), "--clone", "copy", status=2)
    assert "No space left on device" in full.stderr
    target(pool).run(["rm", f"{POOL}/fill"])
    assert entries(pool) == there
    assert target(pool).run(["cat", f"{root}/etc/mine"]).text == "mine"

    before = used(pool)
    pool("upgrade", "moves", "--to", str(quick))
    assert used(pool) - before < 2 * OWN[kind]
    assert owned(pool, root) == ["mine", "mine", "/", "../../../../../../etc", "1,3"]
    pool("verify", "moves")
    [row] = json.loads(pool("list", "--json").stdout)
    # See above for what btrfs does not say.
    assert 0 < row["former"] < 32 << 20
    target(pool).run(["sh", "-ec", 'cd "$1"; echo since > srv/since; rm srv/mine', "since", root])
    before = used(pool)
    pool("rollback", "moves", "--carry")
    # Of 250 MiB; btrfs may count the file of 8 MiB that is carried once more.
    assert used(pool) - before < 2 * OWN[kind] + (8 << 20)
    assert target(pool).run(["ls", f"{root}/srv"]).text.split() == ["much", "null", "out", "since"]
    pool("rollback", "moves")
    pool("remove", "moves", "--yes")
    assert {name.partition(".")[0] for name in entries(pool)} == {"golden"}
    if kind == "xfs":
        layered(pool, quick)
    pool("prune", "--yes")
    assert entries(pool) == set()


@pytest.mark.long
def test_a_disk_that_fills_up_under_what_is_carried_changes_nothing(inv: Virtroot, quick: Path, tmp_path: Path) -> None:
    """On a file system that copies, where what the guest has of its own is what does not fit any more."""
    with pool_on("ext4", inv, tmp_path) as pool:
        pool("install", "moves", "--artifact", str(quick), "--ssh-key", "none")
        root = f"{POOL}/root.moves"
        taken = used(pool)
        # More than ext4 keeps back for root, which is 5 %.
        write = 'echo mine > "$1/etc/mine"; head -c 600M /dev/urandom > "$1/srv/much"'
        target(pool).run(["sh", "-ec", write, "write", root])
        there = entries(pool)
        target(pool).run(["sh", "-ec", FILL, "fill", POOL, str(taken + (100 << 20))])
        full = pool("upgrade", "moves", "--to", str(quick), status=2)
        assert "copying the guest's state" in full.stderr
        assert "No space left on device" in full.stderr
        target(pool).run(["rm", f"{POOL}/fill"])
        assert entries(pool) == there
        pool("verify", "moves")
        pool("upgrade", "moves", "--to", str(quick))
        kept = target(pool).run(["sh", "-ec", 'cd "$1"; cat etc/mine; stat -c %s srv/much', "look", root])
        assert kept.text.split() == ["mine", str(600 << 20)]


def layered(pool: Virtroot, artifact: Path) -> None:
    """Upgrade a guest whose root is a layer, and take it back with what it wrote since."""
    root = f"{POOL}/root.moves"
    pool("install", "moves", "--artifact", str(artifact), "--ssh-key", "none", "--clone", "overlay")
    target(pool).run(["sh", "-ec", OWNED, "owned", root])
    assert "a layer on top" in pool("upgrade", "moves", "--to", str(artifact)).stderr
    assert owned(pool, root) == ["mine", "mine", "/", "../../../../../../etc", "1,3"]
    target(pool).run(["sh", "-ec", 'cd "$1"; echo since > srv/since; rm srv/mine', "since", root])
    pool("rollback", "moves", "--carry")
    assert target(pool).run(["ls", f"{root}/srv"]).text.split() == ["much", "null", "out", "since"]
    assert get(connect(pool.settings), "moves").source.lower
    pool("verify", "moves")
    pool("rollback", "moves")
    pool("remove", "moves", "--yes")


def owned(pool: Virtroot, root: str) -> list[str]:
    look = 'cd "$1"; cat etc/mine srv/mine; readlink srv/out var/mail; stat --format=%t,%T srv/null'
    return target(pool).run(["sh", "-ec", look, "look", root]).text.split()


def test_a_layer_outlives_its_hypervisor_and_refuses_a_changed_golden_tree(pool: Virtroot, quick: Path) -> None:
    artifact = ("--artifact", str(quick), "--ssh-key", "none", "--cache", "always")
    if pool.embedded.endswith("btrfs"):
        refused = pool("install", "layer", *artifact, "--clone", "overlay", status=2)
        assert "btrfs numbers the inodes of each subvolume separately" in refused.stderr
        assert entries(pool) == set()
        return
    refused = pool("install", "layer", *artifact, "--clone", "overlay", "--overlayfs", status=2)
    assert "cannot mount overlayfs on it" in refused.stderr
    pool("install", "layer", *artifact, "--clone", "overlay")
    (golden,) = (name for name in entries(pool) if name.startswith("golden."))
    pool("start", "layer")
    changes = "echo kept > /root/kept; rm /etc/issue; mv /usr/share/doc /usr/share/renamed; sync"
    pool("exec", "layer", "--", "sh", "-c", changes)
    docker.from_env().containers.get(pool.embedded).stop()
    pool("start", "layer")
    look = "cat /root/kept; ls -d /etc/issue /usr/share/doc /usr/share/renamed 2>/dev/null || true"
    assert pool("exec", "layer", "--", "sh", "-c", look).stdout.split() == ["kept", "/usr/share/renamed"]
    pool("stop", "layer")
    [row] = json.loads(pool("list", "--json").stdout)
    assert 100 << 20 < row["shared"] < row["size"] < row["shared"] + (64 << 20)

    pool("snapshot", "layer", "early")
    programs.mount_layers(
        target(pool), f"{POOL}/root.layer", f"{POOL}/{golden}", get(connect(pool.settings), "layer").source.lower
    )
    target(pool).run(["sh", "-ec", 'cd "$1"; rm root/kept; touch etc/issue', "spoil", f"{POOL}/root.layer"])
    pool("restore", "layer", "early")

    # A copy of one that lies on something lies on nothing.
    pool("clone", "layer", "whole")
    assert get(connect(pool.settings), "whole").source.lower == ""
    assert f"{POOL}/root.whole" not in target(pool).run(["cat", "/proc/mounts"]).text
    assert target(pool).run(["cat", f"{POOL}/root.whole/root/kept"]).text == "kept"
    assert target(pool).run(["ls", f"{POOL}/root.whole/etc/issue"], check=False).returncode

    target(pool).run(["touch", f"{POOL}/{golden}/root/srv"])
    for argv in (["start", "layer"], ["clone", "layer", "another"], ["verify", "layer"]):
        assert f"{golden} is not the one" in pool(*argv, status=2).stderr
    by_virsh = connect(pool.settings).virsh("start", "layer", check=False)
    assert by_virsh.returncode != 0
    assert f"{golden} is not the one" in by_virsh.complaint
    assert "is used by layer" in pool("install", "other", *artifact, status=2).stderr
    pool("remove", "layer", "--yes")
    assert "was changed: unpacking it again" in pool("install", "other", *artifact).stderr
    for name in ("other", "whole"):
        pool("remove", name, "--yes")
    pool("prune", "--yes")
    assert entries(pool) == set()


def test_what_a_pool_cannot_do_is_refused(inv: Virtroot, quick: Path) -> None:
    """The tests' usual pool is on whatever file system the engine has; a snapshot of it is none that btrfs makes."""
    artifact = ("--artifact", str(quick), "--ssh-key", "none")
    assert "invalid clone method 'link'" in inv("install", "odd", *artifact, "--clone", "link", status=2).stderr
    kind = target(inv).run(["stat", "--file-system", "--format=%T", "/var/lib/libvirt"]).text.strip()
    if kind != "btrfs":
        refused = inv("install", "odd", *artifact, "--clone", "snapshot", status=2)
        assert "needs subvolumes" in refused.stderr
    assert entries(inv) & {"root.odd"} == set()
