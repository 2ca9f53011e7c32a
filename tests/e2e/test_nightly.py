"""Nights over real recipes: three built and booted, one of which never comes up."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import RunRecord
from pipelines.artifact.store import Store
from pipelines.guest import guest as guests
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot, named
from tests.support.artifacts import made

GOOD, ALSO, BROKEN = named("one"), named("two"), named("ends")


@pytest.fixture(scope="module")
def recipes(recipe: Callable[..., Path], quick: Path) -> dict[str, Path]:
    """Three recipes that begin as ``quick``, whose stages are cached; one root's first program ends at once."""
    # The inspection finds an init in it: that it is the wrong one, only a boot tells.
    ends = 'run: ["ln -sf /bin/false /usr/sbin/init"]'
    fast = {"bootstrap": "mmdebstrap", "generator": "none"}
    return {
        GOOD: recipe(GOOD, **fast),
        ALSO: recipe(ALSO, 'run: ["echo two > /etc/motd"]', **fast),
        BROKEN: recipe(BROKEN, ends, **fast),
    }


def night(inv: Virtroot, recipes: dict[str, Path], *options: str, status: int = 0) -> str:
    those = [word for path in recipes.values() for word in ("--recipe", str(path))]
    return inv("nightly", *those, *options, status=status).stderr


def last(inv: Virtroot, name: str) -> RunRecord:
    return Store(inv.output).history(name).records()[-1]


def golden(inv: Virtroot, name: str) -> Path:
    return (inv.output / name / "golden").resolve()


def guests_of_nights(inv: Virtroot) -> list[str]:
    return [guest.name for guest in guests.list_guests(connect(inv.settings)) if guest.name.startswith("night-")]


def test_two_are_promoted_and_the_third_keeps_its_golden_root(
    inv: Virtroot, recipes: dict[str, Path], tmp_path: Path
) -> None:
    former = made(inv.output, BROKEN, "20260101T000000Z-000000000000")
    (inv.output / BROKEN / "golden").symlink_to(former.directory.name)
    told = tmp_path / "told.json"
    said = night(inv, recipes, "--jobs", "2", "--keep", "2", "--on-failure", f"tee {told}", status=1)
    assert f"1 of 3 recipes failed: {BROKEN}" in said

    for name in (GOOD, ALSO):
        record = last(inv, name)
        assert (record.outcome, record.failure, record.golden) == ("promoted", None, record.artifact)
        assert record.verdicts["guest"].passed
        assert record.boot_seconds is not None
        assert golden(inv, name) == (inv.output / name / "latest").resolve() == inv.output / record.artifact
        assert (golden(inv, name) / f"junit-guest-night-{name}.xml").exists()
    record = last(inv, BROKEN)
    assert record.failure is not None
    assert (record.outcome, record.failure.where, record.golden) == ("failed", "boot", former.id)
    assert "Kernel panic" in record.failure.label
    assert golden(inv, BROKEN) == former.directory
    assert record.since_golden is not None
    assert {change.name for change in record.since_golden.added} >= {"bash"}

    document: dict[str, Any] = json.loads(told.read_text())
    assert (document["recipe"], document["state"], document["former_state"]) == (BROKEN, "failed", "")
    assert document["night"]["failure"]["where"] == "boot"
    assert guests_of_nights(inv) == []

    status = inv("status", "--json", "--max-age", "36h", status=1)
    rows = {row["recipe"]: row for row in json.loads(status.stdout)}
    assert [rows[name]["outcome"] for name in recipes] == ["promoted", "promoted", "failed"]
    assert rows[BROKEN]["checked"] is None
    assert BROKEN in status.stderr

    # Right after: nothing to do for two, and the third is tried again.
    night(inv, recipes, status=1)
    assert [last(inv, name).outcome for name in recipes] == ["unchanged", "unchanged", "failed"]
    assert last(inv, GOOD).artifact == golden(inv, GOOD).relative_to(inv.output).as_posix()


def test_install_takes_the_golden_root(inv: Virtroot, recipes: dict[str, Path]) -> None:
    said = inv("install", "nightly", "--recipe", str(recipes[GOOD])).stderr
    inv("remove", "nightly", "--yes")
    assert f"installing nightly from the golden root {last(inv, GOOD).golden}" in said


def test_what_a_guest_was_made_from_is_not_pruned(inv: Virtroot, recipes: dict[str, Path]) -> None:
    name, old = recipes[GOOD].stem, Artifact(inv.output / GOOD / "20200101T000000Z-000000000000")
    shutil.copytree(golden(inv, name), old.directory)
    old.describe(old.manifest.model_copy(update={"build": old.directory.name}))
    inv("install", "used", "--artifact", str(old.directory))
    assert "pruned 0 builds" in inv("prune", "--recipe", name, "--keep", "1").stderr
    inv("remove", "used", "--yes")
    assert "nothing was pruned" in inv("prune", "--recipe", name, "--keep", "1", status=2).stderr
    assert old.exists
    inv("prune", "--recipe", name, "--keep", "1", "--yes")
    assert not old.exists
    assert golden(inv, name).exists()


def test_a_killed_night_leaves_a_guest_that_the_next_one_removes(inv: Virtroot, recipes: dict[str, Path]) -> None:
    killed = inv.start("nightly", "--recipe", str(recipes[BROKEN]))
    deadline = time.monotonic() + 120
    while not guests_of_nights(inv):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.5)
    refused = inv("nightly", "--recipe", str(recipes[GOOD]), status=2).stderr
    assert f"another task works on the night all: process {killed.pid}" in refused
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = golden(inv, BROKEN)
    assert guests_of_nights(inv) == [f"night-{BROKEN}"]
    said = night(inv, {GOOD: recipes[GOOD]})
    assert f"removing the guest night-{BROKEN} that a killed nightly run left" in said
    assert guests_of_nights(inv) == []
    assert golden(inv, BROKEN) == before


def test_a_guest_of_the_users_is_never_taken_for_one_of_the_nights(inv: Virtroot, recipes: dict[str, Path]) -> None:
    inv("install", f"night-{BROKEN}", "--recipe", str(recipes[GOOD]))
    night(inv, {BROKEN: recipes[BROKEN]}, status=1)
    assert guests_of_nights(inv) == [f"night-{BROKEN}"]
    inv("remove", f"night-{BROKEN}", "--yes")
