"""An install that is killed leaves nothing under a final name, and the next one succeeds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.guest import hold
from pipelines.libvirt.connect import connect
from pipelines.pool import place
from pipelines.pool.place import Place
from tests.conftest import Virtroot

POOL = "/var/lib/libvirt/filesystems"
JOURNAL = f"{POOL}/.root.fragile@journal"

#: What a publication that its machine ended leaves: a root and a boot directory, and the journal that tells them.
PRETEND = """
mkdir -p "$1" "$2"
for what in "root $1" "boot $2"; do
    echo "${what% *} $(TZ=UTC stat --format='%d %i %w' "${what#* }")"
done > "$3"
"""


def kill_install(inv: Virtroot, artifact: Path, after: str, delay: float) -> None:
    task = inv.start("install", "--name", "fragile", "--artifact", str(artifact))
    assert task.stderr is not None
    for line in task.stderr:
        if line.startswith(after):
            break
    time.sleep(delay)
    os.kill(task.pid, signal.SIGKILL)
    task.communicate()
    assert task.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("after", "delay"),
    # A kill at each command of a publication is in tests/unit/test_publication.py.
    [("checking", 0.4), ("unpacking", 0.2)],
)
def test_kill_leaves_nothing_under_a_final_name(inv: Virtroot, trixie: Path, after: str, delay: float) -> None:
    hypervisor = connect(inv.settings)
    kill_install(inv, trixie, after, delay)
    assert not hypervisor.is_defined("fragile")
    named = hypervisor.target.run(["ls", "-d", f"{POOL}/root.fragile", place.boot("fragile")], check=False)
    assert named.stdout == b""


def test_the_next_install_succeeds_and_clears_up(inv: Virtroot, trixie: Path) -> None:
    kill_install(inv, trixie, "checking", 0.8)
    inv("install", "--name", "fragile", "--artifact", str(trixie))
    target = connect(inv.settings).target
    left = target.run(["find", POOL, place.BOOT, "-maxdepth", "1", "-name", "*fragile*", "-name", ".*"])
    inv("remove", "--name", "fragile", "--yes")
    assert left.text == ""


def test_a_publication_cut_short_by_a_power_failure_is_cleared(inv: Virtroot, trixie: Path) -> None:
    """Root and boot directory have their names, the journal is there, the domain is not defined yet."""
    target = connect(inv.settings).target
    boot = place.boot("fragile")
    target.run(["sh", "-ec", PRETEND, "pretend", f"{POOL}/root.fragile", boot, JOURNAL])
    inv("install", "--name", "fragile", "--artifact", str(trixie))
    inv("remove", "--name", "fragile", "--yes")


def test_a_root_that_was_restored_by_hand_is_nobodys_leftover(inv: Virtroot, trixie: Path) -> None:
    """The journal of a publication that was cut short is there, but what has its names is another root by now."""
    target = connect(inv.settings).target
    root, boot = f"{POOL}/root.fragile", place.boot("fragile")
    target.run(["sh", "-ec", PRETEND, "pretend", root, boot, JOURNAL])
    target.run(["sh", "-ec", 'mv "$1" "$1.old"; mkdir "$1"; echo mine > "$1/file"; rm -r "$1.old"', "restore", root])
    said = inv("install", "--name", "fragile", "--artifact", str(trixie), status=2).stderr
    kept = target.run(["cat", f"{root}/file"]).text
    target.run(["rm", "-r", root, boot, JOURNAL])
    assert "exists already" in said
    assert kept == "mine"


def test_the_journal_of_a_guest_that_is_whole_vouches_for_nothing(inv: Virtroot, trixie: Path) -> None:
    """Publication ended after the domain was defined; later on somebody undefines the domain and keeps the root."""
    hypervisor = connect(inv.settings)
    target, root, boot = hypervisor.target, f"{POOL}/root.fragile", place.boot("fragile")
    inv("install", "--name", "fragile", "--artifact", str(trixie))
    target.run(["sh", "-ec", PRETEND, "pretend", root, boot, JOURNAL])
    assert "the guest fragile exists already" in inv("install", "fragile", "--artifact", str(trixie), status=2).stderr
    hypervisor.virsh("undefine", "fragile")
    said = inv("install", "fragile", "--artifact", str(trixie), status=2).stderr
    kept = target.run(["test", "-s", f"{root}/etc/os-release"], check=False).returncode
    target.run(["rm", "-r", root, boot])
    assert "exists already" in said
    assert kept == 0


def test_two_checkouts_do_not_work_on_one_guest(inv: Virtroot, trixie: Path, tmp_path: Path) -> None:
    hypervisor = connect(inv.settings)
    other = {"INVOKE_VIRTROOT_OUTPUT": str(tmp_path)}
    with hold.new(hypervisor, Place(POOL, "fragile")):
        said = inv("install", "--name", "fragile", "--artifact", str(trixie), status=2, **other).stderr
    assert "another task works on the guest fragile" in said
    locks = hypervisor.target.run(["stat", "--format=%a", "/run/virtroot", place.lock("fragile")]).text.split()
    assert locks == ["700", "600"], "others could hold them"
    assert not hypervisor.is_defined("fragile")


def test_a_killed_tasks_lock_is_free(inv: Virtroot, trixie: Path) -> None:
    kill_install(inv, trixie, "checking", 0.0)
    with hold.new(connect(inv.settings), Place(POOL, "fragile")):
        pass


def test_a_root_that_virtroot_did_not_make_is_left_alone(inv: Virtroot, trixie: Path) -> None:
    target = connect(inv.settings).target
    target.run(["sh", "-ec", 'mkdir -p "$1"; echo mine > "$1/file"', "mine", f"{POOL}/root.fragile"])
    said = inv("install", "--name", "fragile", "--artifact", str(trixie), status=2).stderr
    kept = target.run(["cat", f"{POOL}/root.fragile/file"]).text
    target.run(["rm", "-r", f"{POOL}/root.fragile"])
    assert "exists already" in said
    assert kept == "mine"
