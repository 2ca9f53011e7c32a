"""Guests are upgraded one after the other: which of them, and what stops it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest

from pipelines import nightly, upgrade_all
from pipelines.artifact.artifact import Artifact
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.settings import Settings, from_section
from pipelines.upgrade import WentBack, Wishes

GOLDEN = "web/20261102T000000Z"


def guest(name: str, artifact: str, transient: str = "") -> Guest:
    hypervisor = create_autospec(Hypervisor, instance=True)
    return Guest(hypervisor, name, name, artifact, f"/pool/root.{name}", "/boot", "k", "", "/log", transient=transient)


GUESTS = [
    guest("c", "web/20261101T000000Z"),
    guest("a", "web/20261101T000000Z"),
    guest("b", GOLDEN),
    guest("newer", "web/20261103T000000Z"),
    guest("night-web", "web/20261101T000000Z", transient="nightly"),
    guest("other", "gone/1"),
    guest("d", "web/20261101T000000Z"),
]


@pytest.fixture(autouse=True)
def fleet() -> Iterator[None]:
    def artifact(name: str, to: str, settings: Settings) -> Artifact:
        assert not to
        if name == "other":
            raise VirtrootError("nothing is kept of gone", "")
        made: Artifact = create_autospec(Artifact, instance=True, id=GOLDEN)
        return made

    def find(hypervisor: Hypervisor, name: str) -> Guest:
        found = {each.name: each for each in GUESTS}
        if name not in found:
            raise VirtrootError(f"there is no guest {name}", "")
        return found[name]

    with (
        patch("pipelines.upgrade_all.connect"),
        patch("pipelines.upgrade_all.guests.every", return_value=GUESTS),
        patch("pipelines.upgrade_all.guests.find", side_effect=find),
        patch("pipelines.upgrade_all.formers.refused", side_effect=lambda each: [GOLDEN] if each.name == "d" else []),
        patch("pipelines.upgrade_all.upgrading.artifact", side_effect=artifact),
    ):
        yield


def due(*names: str, again: bool = False) -> list[str]:
    return [name for name, _ in upgrade_all.due(names, Wishes(again=again), Settings())]


def test_those_that_are_not_on_their_golden_root_are_due_in_order() -> None:
    assert due() == ["a", "c"]
    assert due("c", "b") == ["c"]
    assert due(again=True) == ["a", "c", "d"]
    with pytest.raises(VirtrootError, match="no guest typo"):
        due("typo")


@pytest.mark.parametrize(("went_back", "tried"), [(True, ["a"]), (False, ["a", "c"])])
def test_it_stops_at_the_first_that_does_not_come_up_and_at_no_other(
    went_back: bool, tried: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def upgrade(name: str, *_: object) -> None:
        if name == "a":
            why = VirtrootError("the reason", "")
            raise WentBack(why) if went_back else why

    with (
        patch("pipelines.upgrade_all.upgrading.upgrade", side_effect=upgrade) as upgraded,
        pytest.raises(VirtrootError) as stopped,
    ):
        upgrade_all.upgrade_all((), Wishes(), Settings())
    assert [call.args[0] for call in upgraded.call_args_list] == tried
    assert ("not touched any more: c" in stopped.value.what) == went_back
    assert ("stay as they were: a" in stopped.value.what) != went_back
    assert "the reason" in capsys.readouterr().err


def test_what_can_be_told_of_the_others_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def preview(name: str, *_: object) -> str:
        if name == "a":
            raise VirtrootError("no account file", "")
        return f"what becomes of {name}"

    told: list[tuple[str, object]] = []
    with (
        patch("pipelines.upgrade_all.upgrading.preview", side_effect=preview),
        pytest.raises(VirtrootError, match="nothing can be told of a"),
    ):
        told.extend(upgrade_all.previews(Wishes(), Settings()))
    assert told == [("c", "what becomes of c")]
    assert "no account file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "names"), [("none", None), ("all", ()), ("web, db", ["web", "db"]), (["web"], ["web"])]
)
def test_a_night_upgrades_whom_the_settings_name_and_nobody_by_default(
    setting: object, names: object, tmp_path: Path
) -> None:
    settings = from_section({"upgrade": setting, "output": str(tmp_path)})
    with patch("pipelines.nightly.upgrade_all") as upgraded:
        nightly.nightly([], settings, keep=7, jobs=1)
    assert [call.args[0] for call in upgraded.call_args_list] == ([] if names is None else [names])
    assert all(call.args[1].restart for call in upgraded.call_args_list)


def test_a_night_whose_guests_stay_behind_has_failed(tmp_path: Path) -> None:
    with (
        patch("pipelines.nightly.upgrade_all", side_effect=VirtrootError("web does not come up", "look")),
        pytest.raises(CheckFailed, match="web does not come up"),
    ):
        nightly.nightly([], Settings(upgrade="all", output=str(tmp_path)), keep=7, jobs=1)
