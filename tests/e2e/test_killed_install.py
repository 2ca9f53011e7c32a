"""An install that is killed leaves nothing under a final name, and the next one succeeds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.guest import place
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot

POOL = "/var/lib/libvirt/filesystems"


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
    [("checking", 0.0), ("checking", 0.4), ("checking", 1.0), ("unpacking", 0.0), ("unpacking", 0.2)],
)
def test_kill_leaves_nothing_under_a_final_name(inv: Virtroot, trixie: Path, after: str, delay: float) -> None:
    hypervisor = connect(inv.settings)
    kill_install(inv, trixie, after, delay)
    assert not hypervisor.defined("fragile")
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
    script = 'mkdir -p "$1/root.fragile" "$2"; : > "$1/.root.fragile.installing"'
    target.run(["sh", "-ec", script, "pretend", POOL, boot])
    inv("install", "--name", "fragile", "--artifact", str(trixie))
    inv("remove", "--name", "fragile", "--yes")


def test_a_root_that_virtroot_did_not_make_is_left_alone(inv: Virtroot, trixie: Path) -> None:
    target = connect(inv.settings).target
    target.run(["sh", "-ec", 'mkdir -p "$1"; echo mine > "$1/file"', "mine", f"{POOL}/root.fragile"])
    said = inv("install", "--name", "fragile", "--artifact", str(trixie), status=2).stderr
    kept = target.run(["cat", f"{POOL}/root.fragile/file"]).text
    target.run(["rm", "-r", f"{POOL}/root.fragile"])
    assert "exists already" in said
    assert kept == "mine"
