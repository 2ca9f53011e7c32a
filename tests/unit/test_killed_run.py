"""A night that is killed at any change it makes to the output; build and boot are stood in for, the rest is real."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pipelines import candidate
from pipelines import nightly as nights
from pipelines.artifact.artifact import PARTIAL, Artifact
from pipelines.artifact.store import Store
from pipelines.context import CommandContext
from pipelines.settings import Settings
from tests.support.artifacts import made
from tests.support.nights import Stage

#: What Python's audit hooks call a change of the file system.
CHANGES = {"os.rename", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}

NEW = "20261105T030000Z-5"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Four builds, the newest of them golden, and a fifth to be proven; two may stay."""
    stage = Stage(tmp_path / "output")
    store = Store(stage.output)
    for day in range(1, 5):
        artifact = made(stage.output, "web", f"2026110{day}T030000Z-{day}")
        (artifact.directory / "build.log").touch()
        store.golden("web").promote(artifact)
    store.name_latest("web", "20261104T030000Z-4")
    # What a killed build leaves is tested on real ones.
    made(stage.output, "web", NEW, good=None)
    stage.builds = {"web": NEW}
    (tmp_path / "web.yaml").write_text("distro: debian\n")
    monkeypatch.setattr(nights, "build", stage.build)
    monkeypatch.setattr(nights, "_make_asker", lambda settings, stack: stage)
    monkeypatch.setattr("pipelines.libvirt.connect.find", lambda settings: None)
    monkeypatch.setattr(candidate, "verify_in_guest", lambda artifact, run, facts: stage.prove(artifact))
    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: None)
    monkeypatch.setattr("pipelines.pool.pool.find_directory", lambda hypervisor, settings: None)
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda hypervisor: [])
    return stage


def night(stage: Stage) -> None:
    nights.nightly(
        [stage.output.parent / "web.yaml"], CommandContext(Settings(output=str(stage.output))), keep=2, jobs=1
    )


def killed_at(stage: Stage, change: int) -> bool:
    """Run a night in a process that kills itself before its ``change``-th change; say whether it came to that."""
    child = os.fork()
    if not child:
        counted = 0

        def count(event: str, _: tuple[object, ...]) -> None:
            nonlocal counted
            if event in CHANGES:
                counted += 1
                if counted == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            night(stage)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def names(stage: Stage) -> list[str]:
    return sorted(path.name for path in (stage.output / "web").iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("change", range(1, 36))
def test_links_are_valid_and_the_next_night_clears_up(stage: Stage, change: int) -> None:
    home = stage.output / "web"
    was_killed = killed_at(stage, change)
    golden = Store(stage.output).golden("web")
    assert golden.artifact is not None
    assert golden.artifact.directory.name in {"20261104T030000Z-4", NEW}
    assert (home / "latest").exists()

    night(stage)
    assert golden.artifact == Artifact(home / NEW)
    assert names(stage) == ["20261104T030000Z-4", NEW, "golden", "history.jsonl", "index.html", "latest"]
    assert list(home.glob(f"{PARTIAL}*")) == []
    outcomes = [night.outcome for night in Store(stage.output).history("web").records()]
    # Killed before its record: nobody knows that it was promoted, so it is proven again.
    before_the_record = (["promoted"], ["unchanged"])
    assert outcomes == ["promoted", "unchanged"] or (was_killed and outcomes in before_the_record)


def test_a_night_makes_fewer_changes_than_are_tried(stage: Stage) -> None:
    assert killed_at(stage, 5)
    assert not killed_at(stage, 35)
