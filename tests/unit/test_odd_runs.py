"""Nights over what is damaged, from another time, or unheard: each recipe comes to its own end."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import log
from pipelines import nightly as nights
from pipelines.artifact import history as histories
from pipelines.artifact.history import History, RunRecord
from pipelines.artifact.store import Store
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.settings import Settings
from tests.support.artifacts import made
from tests.support.nights import Stage, golden, history, night, stage

__all__ = ["night", "stage"]

Run = Callable[..., list[str]]


def damage(stage: Stage, build: str) -> None:
    (stage.output / build / "manifest.json").write_text("{")


def test_a_golden_root_that_cannot_be_read_is_replaced_and_stops_no_other(stage: Stage, night: Run) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    night("web", "mail")
    damage(stage, "web/1")
    stage.builds = {"web": "2", "mail": "2"}
    assert night("web", "mail") == ["promoted", "promoted"]
    assert (golden(stage, "web"), golden(stage, "mail")) == ("2", "2")
    assert history(stage, "web")[-1].since_golden is None


def test_what_a_failed_night_left_damaged_fails_no_other(stage: Stage, night: Run) -> None:
    stage.builds, stage.boots = {"web": "1"}, [CheckFailed("no", "look")]
    night("web")
    damage(stage, "web/1")
    stage.builds = {"web": "2"}
    assert night("web") == ["promoted"]


def test_pruning_that_fails_is_said_and_fails_no_night(
    stage: Stage, night: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prune(*_: object, **__: object) -> None:
        raise VirtrootError("libvirt does not answer", "start it")

    monkeypatch.setattr(nights, "prune", prune)
    stage.builds = {"web": "1"}
    assert night("web") == ["promoted"]
    assert "cannot delete old builds of web: error: libvirt does not answer" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_change_that_is_taken_back_is_golden_again_as_a_new_build(stage: Stage, night: Run) -> None:
    for build in "12":
        stage.builds = {"web": build}
        night("web")
    stage.builds = {"web": "1"}
    assert night("web") == ["promoted"]
    assert stage.said == ["build web", "build web anew", "boot", "prune 3"]
    assert (golden(stage, "web"), history(stage, "web")[-1].artifact) == ("9", "web/9")


def test_a_golden_root_of_the_future_does_not_stand_in_the_way(stage: Stage, night: Run) -> None:
    stage.builds = {"web": "20990101T000000Z-a"}
    night("web")
    stage.builds = {"web": "20261101T000000Z-b"}
    assert night("web") == ["promoted"]
    assert golden(stage, "web") == "20261101T000000Z-b"


def test_a_file_that_no_recipe_can_be_called_after_fails_alone(stage: Stage, tmp_path: Path) -> None:
    odd, good = tmp_path / os.fsdecode(b"\xff.yaml"), tmp_path / "mail.yaml"
    for source in (odd, good):
        source.write_text("distro: debian\n")
    stage.builds = {"mail": "1"}
    with pytest.raises(CheckFailed, match="1 of 2 recipes failed"):
        nights.nightly([odd, good], CommandContext(Settings(output=str(stage.output))), keep=3, jobs=1)
    assert golden(stage, "mail") == "1"


def test_a_bug_whose_traceback_is_no_text_is_recorded(stage: Stage, night: Run) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    stage.boots = [RuntimeError("\udcff")]
    assert night("web", "mail") == ["failed", "promoted"]


def test_a_night_that_nobody_can_hear_goes_on(stage: Stage, night: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    with suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(log, "_console", Console(file=full, soft_wrap=True))
        with pytest.raises(OSError, match="No space left"):
            log.say("heard by nobody")
        night("web", "mail")
    assert [history(stage, name)[-1].outcome for name in ("web", "mail")] == ["promoted", "promoted"]


def test_a_night_that_cannot_be_recorded_gives_notice(stage: Stage, tmp_path: Path) -> None:
    stage.builds = {"web": "1"}
    (stage.output / "web" / "history.jsonl").mkdir(parents=True)
    (tmp_path / "web.yaml").write_text("distro: debian\n")
    told = tmp_path / "told"
    with pytest.raises(CheckFailed):
        nights.nightly(
            [tmp_path / "web.yaml"],
            CommandContext(Settings(output=str(stage.output), on_failure=f"tee {told}")),
            keep=3,
            jobs=1,
        )
    assert "history.jsonl" in told.read_text()


def test_links_that_a_copy_made_directories_are_no_builds(stage: Stage, night: Run) -> None:
    stage.builds = {"web": "1"}
    night("web")
    link = stage.output / "web" / "golden"
    link.unlink()
    made(stage.output, "elsewhere", "1").directory.rename(link)
    stage.builds = {"web": "2"}
    assert night("web") == ["failed"]
    failure = history(stage, "web")[-1].failure
    assert failure is not None
    assert "golden: not a symbolic link" in failure.text
    assert [each.directory.name for each in Store(stage.output).builds("web")] == ["1", "2"]


@pytest.mark.parametrize("said", ["", "\n", "web.yaml\n", "/no\0where\n", "\udcff\n"])
def test_a_directory_that_does_not_say_whose_it_is_belongs_to_nobody(tmp_path: Path, said: str) -> None:
    store, source = Store(tmp_path), tmp_path / "web.yaml"
    source.touch()
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / ".recipe").write_bytes(os.fsencode(said))
    assert store.source("web") is None
    store.claim("web", source)
    assert store.source("web") == source.resolve()


def test_of_a_long_history_the_last_years_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "history.jsonl")
    for day in range(1, 29):
        history.append(RunRecord(recipe="web", time=f"2026-11-{day:02}T03:00:00Z", seconds=1, outcome="unchanged"))
    length = len((tmp_path / "history.jsonl").read_bytes()) // 28
    for room, first in ((3 * length, 26), (3 * length + 1, 25), (1000 * length, 1)):
        monkeypatch.setattr(histories, "_MAX_READ", room)
        assert history.records()[0].time.startswith(f"2026-11-{first:02}")


def test_a_page_that_cannot_be_written_stops_no_other(stage: Stage, night: Run) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    (stage.output / "mail" / "index.html").mkdir(parents=True)
    night("web", "mail")
    assert (stage.output / "web" / "index.html").is_file()
    assert "mail" in (stage.output / "index.html").read_text()


def test_no_recipe_is_called_as_the_page_of_all(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "index.html.yaml").write_text("distro: debian\n")
    with pytest.raises(VirtrootError, match="invalid recipe file name"):
        inputs.find(recipe=str(tmp_path / "index.html.yaml"))
