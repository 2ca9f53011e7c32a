"""What a night makes of what its verbs say; the verbs themselves are stood in for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from pipelines import candidate
from pipelines import nightly as nights
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import History, RunRecord
from pipelines.artifact.store import Store
from pipelines.builder.inputs import Inputs
from pipelines.context import CommandContext
from pipelines.engine.engine import NameTaken
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.night.report import pages
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from tests.support.nights import Stage, golden, history, night, stage

__all__ = ["night", "stage"]

HANGS = VirtrootError("the guest night-web did not come up: no agent answered within 300 s", "look", where=Phase.BOOT)
PANICS = VirtrootError("the guest night-web did not come up: its console says 'Kernel panic'", "look", where=Phase.BOOT)


def test_what_passes_is_promoted_and_then_left_alone(stage: Stage, night: Callable[..., list[str]]) -> None:
    stage.builds = {"web": "1"}
    assert night("web") == ["promoted"]
    assert stage.said == ["build web", "boot", "prune 3"]
    assert golden(stage, "web") == "1"
    assert night("web") == ["unchanged"]
    assert stage.said == ["build web"]
    first, second = history(stage, "web")
    assert (first.golden, first.since_golden, second.golden) == ("web/1", None, "web/1")
    assert first.verdicts["guest"].passed


@pytest.mark.parametrize(
    ("error", "where", "label"),
    [
        (CheckFailed("1 of 10 checks failed: test_sshd", "look"), "check", "1 of 10 checks failed: test_sshd"),
        (PANICS, "boot", "did not come up: its console says 'Kernel panic'"),
        (VirtrootError(f"no init: {PANICS.what}", "", where=Phase.BOOT), "boot", f"no init: {PANICS.what[20:]}"),
        (OSError(28, "No space left on device", "/out"), "engine", "No space left on device: /out"),
        (VirtrootError("\x1b[31m" + "long " * 30, "look"), "engine", ("long " * 30)[:71] + "…"),
        (ZeroDivisionError("oops"), "engine", "a bug in virtroot: ZeroDivisionError('oops')"),
    ],
)
def test_what_fails_keeps_its_golden_root_and_stops_no_other(
    stage: Stage, night: Callable[..., list[str]], error: Exception, where: str, label: str
) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    night("web", "mail")
    stage.builds = {"web": "2", "mail": "2"}
    stage.boots = [error]
    assert night("web", "mail") == ["failed", "promoted"]
    assert (golden(stage, "web"), golden(stage, "mail")) == ("1", "2")
    record = history(stage, "web")[-1]
    assert record.failure is not None
    assert (record.failure.where, record.failure.label) == (where, label)
    assert (record.artifact, record.golden) == ("web/2", "web/1")
    assert "prune 3" not in stage.said[: stage.said.index("build mail")]


def test_a_failed_night_is_tried_again_though_nothing_changed(stage: Stage, night: Callable[..., list[str]]) -> None:
    stage.builds, stage.boots = {"web": "1"}, [CheckFailed("no", "look")]
    assert night("web") == ["failed"]
    assert night("web") == ["promoted"]
    stage.builds["web"] = VirtrootError("the package mirror does not answer", "look", where=Phase.MIRROR)
    assert night("web") == ["failed"]
    stage.builds["web"] = "1"
    assert night("web") == ["unchanged"]
    # It was golden, but the last night was none to trust.
    assert stage.said == ["build web", "boot", "prune 3"]


def test_what_is_older_or_was_taken_back_is_not_promoted(stage: Stage, night: Callable[..., list[str]]) -> None:
    for build in ("2", "3"):
        stage.builds = {"web": build}
        night("web")
    stage.builds = {"web": "1"}
    assert (night("web"), golden(stage, "web")) == (["kept"], "3")
    Store(stage.output).golden("web").demote()
    stage.builds = {"web": "3"}
    assert (night("web"), golden(stage, "web")) == (["kept"], "2")
    assert "boot" not in stage.said


def test_side_by_side_gives_the_same(stage: Stage, night: Callable[..., list[str]]) -> None:
    stage.builds = dict.fromkeys("abcd", "1") | {"b": VirtrootError("no", "look", where=Phase.MIRROR)}
    assert night(*"abcd", jobs=3) == ["promoted", "failed", "promoted", "promoted"]


def test_notice_is_given_when_the_state_changes(stage: Stage, night: Callable[..., list[str]], tmp_path: Path) -> None:
    def noticed() -> list[dict[str, Any]]:
        told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
        (tmp_path / "told").write_text("")
        return told

    (tmp_path / "told").write_text("")
    script = tmp_path / "tell me"
    script.write_text(f'#!/bin/sh\ncat >> "{tmp_path}/told"\necho >> "{tmp_path}/told"\n')
    script.chmod(0o755)
    commands = {"on_failure": f"'{script}'", "on_change": f"'{script}' too"}
    stage.builds = {"web": "1"}
    night("web", **commands)
    assert noticed() == []
    stage.builds["web"] = VirtrootError("the mirror is away", "wait", where=Phase.MIRROR)
    night("web", **commands)
    told = noticed()
    assert [each["state"] for each in told] == ["failed", "failed"]
    assert told[0]["night"]["failure"]["label"] == "the mirror is away"
    assert told[0]["former_since"] == history(stage, "web")[0].time
    night("web", **commands)
    assert noticed() == []
    stage.builds["web"] = "1"
    night("web", **commands)
    (only,) = noticed()
    assert (only["state"], only["former_state"], only["former_since"]) == (
        "good",
        "failed",
        history(stage, "web")[1].time,
    )


@pytest.mark.parametrize("command", ["/no/such/program", "false", "sleep 60"])
def test_a_notice_that_fails_or_hangs_stops_nothing(
    stage: Stage,
    night: Callable[..., list[str]],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipelines.night.notice._TIMEOUT", 0.2)
    stage.builds = {"web": VirtrootError("no", "look")}
    assert night("web", on_failure=command) == ["failed"]
    assert f"cannot send the notice '{command}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            VirtrootError("index.html: No space left on device", "free space"),
            "cannot write the pages: index.html: No space left",
        ),
        (OverflowError("date value out of range"), "a bug in virtroot: OverflowError('date value out of range')"),
    ],
)
def test_pages_that_cannot_be_written_are_no_part_of_the_night(
    stage: Stage,
    night: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    stage.builds = {"web": "1"}
    monkeypatch.setattr(pages, "write", create_autospec(pages.write, side_effect=error))
    assert night("web") == ["promoted"]
    assert said in capsys.readouterr().err


def test_two_nights_at_once_the_second_names_the_first(stage: Stage, tmp_path: Path) -> None:
    settings = Settings(output=str(stage.output))
    with (
        Store(stage.output).lock("all", "night"),
        pytest.raises(VirtrootError, match=r"another task works on the night all: process \d+, since"),
    ):
        nights.nightly([tmp_path / "web.yaml"], CommandContext(settings), keep=3, jobs=1)


def test_a_night_that_is_ended_promotes_nothing_more_and_records_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while one recipe's guest is about to start: looked for once, it would have been missed."""
    looked = 0

    def look(run: candidate.Run) -> None:
        nonlocal looked
        looked += 1

    def prove(artifact: Artifact, run: candidate.Run, facts: object) -> None:
        if artifact.manifest.name == "web":
            raise KeyboardInterrupt
        while looked < 2:
            time.sleep(0.01)

    stage.builds = {"web": "1", "mail": "1"}
    monkeypatch.setattr(nights, "_end_work", look)
    monkeypatch.setattr(candidate, "verify_in_guest", prove)
    sources = [tmp_path / f"{name}.yaml" for name in ("web", "mail")]
    for source in sources:
        source.write_text("distro: debian\n")
    with pytest.raises(KeyboardInterrupt):
        nights.nightly(sources, CommandContext(Settings(output=str(stage.output))), keep=3, jobs=2)
    assert [golden(stage, name) for name in ("web", "mail")] == ["", ""]
    assert [history(stage, name) for name in ("web", "mail")] == [[], []]


def test_a_night_waits_for_who_builds_its_recipe_by_hand(
    stage: Stage, night: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nights, "_POLL_SECONDS", 0.01)
    by_hand = stage.build
    asked = 0

    def build(inputs: Inputs, settings: Settings, *, asker: object) -> Artifact:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Busy("the recipe web", "process 4711")
        if asked == 2:
            raise NameTaken("a container virtroot-build-web is at work, for another checkout", "wait for it")
        return by_hand(inputs, settings, asker=asker)

    monkeypatch.setattr(nights, "build", build)
    stage.builds = {"web": "1"}
    assert night("web") == ["promoted"]
    assert capsys.readouterr().err.count("another task works on the recipe web: process 4711: waiting for it") == 1
    monkeypatch.setattr(nights, "_BUSY_SECONDS", 0)
    asked = 0
    assert night("web") == ["failed"]
    failure = history(stage, "web")[-1].failure
    assert failure is not None
    assert "process 4711" in failure.text


def test_two_recipes_of_one_name_are_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(VirtrootError, match="two recipes are named web"):
        nights.nightly(
            [tmp_path / "web.yaml", tmp_path / "b" / "web.yaml"], CommandContext(Settings(output="x")), keep=3, jobs=1
        )


def test_a_record_finds_room_on_a_full_disk(
    stage: Stage, night: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.builds = {"web": OSError(28, "No space left on device", str(stage.output))}
    whole = History.append

    def full(self: History, night: RunRecord) -> None:
        if (stage.output / ".reserve").exists():
            raise VirtrootError("history.jsonl: No space left on device", "free space")
        whole(self, night)

    monkeypatch.setattr(History, "append", full)
    assert night("web") == ["failed"]
    assert not (stage.output / ".reserve").exists()


def test_a_history_that_cannot_be_written_fails_its_recipe_and_stops_no_other(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.builds = {"web": "1", "mail": "1"}
    (stage.output / "web" / "history.jsonl").mkdir(parents=True)
    sources = [tmp_path / f"{name}.yaml" for name in ("web", "mail")]
    for source in sources:
        source.write_text("distro: debian\n")
    with pytest.raises(CheckFailed, match="1 of 2 recipes failed: web"):
        nights.nightly(sources, CommandContext(Settings(output=str(stage.output))), keep=3, jobs=1)
    assert "history.jsonl" in capsys.readouterr().err
    assert golden(stage, "mail") == "1"


@pytest.mark.parametrize("asked", ["overlayfs: true", "network: lan"])
def test_what_a_recipe_from_elsewhere_asks_of_the_host_is_given_only_when_accepted(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    stage.builds = {"web": "1"}
    (tmp_path / "web.yaml").write_text(f"distro: debian\nguest: {{{asked}}}\n")
    settings = Settings(output=str(stage.output))
    with pytest.raises(CheckFailed):
        nights.nightly([tmp_path / "web.yaml"], CommandContext(settings), keep=3, jobs=1)
    assert stage.said == []
    failure = history(stage, "web")[-1].failure
    assert failure
    assert "requests more from the host" in failure.text
    nights.nightly([tmp_path / "web.yaml"], CommandContext(settings), keep=3, jobs=1, accept=True)
    assert stage.said[:2] == ["build web", "boot"]
    # A recipe of the checkout is the user's own word.
    settings = replace(settings, project=str(tmp_path))
    assert [
        night.outcome for night in nights.nightly([tmp_path / "web.yaml"], CommandContext(settings), keep=3, jobs=1)
    ] == ["unchanged"]
