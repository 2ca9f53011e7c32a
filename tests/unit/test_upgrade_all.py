"""Guests are upgraded one after the other: which of them, and what stops it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest

from pipelines import nightly, upgrade
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.merge import upgrade_target
from pipelines.merge.choices import UpgradeOptions
from pipelines.settings import Settings, from_section
from pipelines.upgrade import WentBack
from tests.support.guests import make_guest

GOLDEN = "web/20261102T000000Z"
#: Another checkout's recipe of that name.
ELSEWHERE = "web/20261101T111111Z"


def guest(name: str, artifact: str, transient: str = "") -> Guest:
    hypervisor = create_autospec(Hypervisor, instance=True)
    return make_guest(hypervisor, name, artifact, transient=transient)


GUESTS = [
    guest("c", "web/20261101T000000Z"),
    guest("a", "web/20261101T000000Z"),
    guest("b", GOLDEN),
    guest("newer", "web/20261103T000000Z"),
    guest("night-web", "web/20261101T000000Z", transient="nightly"),
    guest("other", "gone/1"),
    guest("bare", "web/20261101T000000Z"),
    guest("foreign", ELSEWHERE),
    guest("d", "web/20261101T000000Z"),
]


@pytest.fixture(autouse=True)
def fleet() -> Iterator[None]:
    def golden_root(guest: Guest, settings: Settings) -> Artifact | None:
        if guest.name == "other":
            raise VirtrootError("its manifest is damaged", "")
        made: Artifact = create_autospec(Artifact, instance=True, id=GOLDEN)
        return None if guest.name == "bare" else made

    def made_here(_: Store, artifact: str) -> str | None:
        return None if artifact == ELSEWHERE else artifact

    def find(hypervisor: Hypervisor, name: str) -> Guest:
        found = {each.name: each for each in GUESTS}
        if name not in found:
            raise VirtrootError(f"there is no guest {name}", "")
        return found[name]

    def refused(each: Guest) -> list[str]:
        return [GOLDEN] if each.name == "d" else []

    with (
        patch("pipelines.libvirt.connect.connect"),
        patch("pipelines.upgrade.guests.list_guests", return_value=GUESTS),
        patch("pipelines.upgrade.guests.get", side_effect=find),
        patch("pipelines.upgrade.previous_roots.list_refused", side_effect=refused),
        patch("pipelines.merge.upgrade_target.find_golden_root", side_effect=golden_root),
        patch("pipelines.artifact.store.Store.find", autospec=True, side_effect=made_here),
    ):
        yield


@pytest.mark.parametrize(
    "part", ["upgrade.previous_roots.list_refused", "artifact.store.Store.find", "artifact.build_id.BuildId.is_newer"]
)
def test_a_guest_that_cannot_be_judged_keeps_no_other_from_its_turn(part: str) -> None:
    with patch(f"pipelines.{part}", side_effect=VirtrootError("what it wrote", "")):
        told = dict(upgrade_target.list_due((), UpgradeOptions(), CommandContext(Settings())))
    assert told["a"] == told["c"] == "stays as it is: what it wrote"
    assert told["b"] == f"is on {GOLDEN} already"


def due(*names: str, again: bool = False) -> list[str]:
    found = upgrade_target.list_due(names, UpgradeOptions(again=again), CommandContext(Settings()))
    return [name for name, becoming in found if not isinstance(becoming, str)]


def test_those_that_are_not_on_their_golden_root_are_due_in_order() -> None:
    assert due() == ["a", "c"]
    said = dict(upgrade_target.list_due((), UpgradeOptions(), CommandContext(Settings())))
    for name, words in {
        "b": "is on web/20261102T000000Z already",
        "bare": "stays as it is: its recipe has no golden root",
        "d": "stays as it is: it failed on",
        "foreign": "stays as it is: web/20261101T111111Z was made elsewhere",
        "newer": "stays as it is: web/20261103T000000Z is newer",
        "other": "stays as it is: its manifest is damaged",
    }.items():
        assert str(said.pop(name)).startswith(words)
    assert [*said] == ["a", "c"]
    assert due("c", "b") == ["c"]
    assert due(again=True) == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("error", "left", "tried"),
    [
        (WentBack(VirtrootError("the reason", "")), True, ["a"]),
        (VirtrootError("the reason", ""), True, ["a", "c"]),
        # What was to bring it back failed, too.
        (VirtrootError("the reason", ""), False, ["a"]),
        (WentBack(CheckFailed("the reason", "")), True, ["a"]),
    ],
)
def test_it_stops_at_the_first_that_is_not_as_it_was_and_at_no_other(
    error: VirtrootError, left: bool, tried: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    running = True

    def upgraded_to(name: str, *_: object) -> None:
        nonlocal running
        if name == "a":
            running = left
            raise error

    with (
        patch("pipelines.upgrade.upgrade", side_effect=upgraded_to) as upgraded,
        patch.object(Guest, "running", property(lambda _: running)),
        pytest.raises(VirtrootError) as stopped,
    ):
        upgrade.upgrade_all((), UpgradeOptions(), CommandContext(Settings()))
    assert [call.args[0] for call in upgraded.call_args_list] == tried
    assert ("not upgraded: c" in stopped.value.what) == (tried == ["a"])
    assert ("1 guest stays as it was: a" in stopped.value.what) == (tried != ["a"])
    assert stopped.value.exit_code == error.exit_code
    assert "the reason" in capsys.readouterr().err


def test_a_name_that_no_guest_has_keeps_no_other_from_its_upgrade(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        patch("pipelines.upgrade.upgrade") as upgraded,
        pytest.raises(VirtrootError, match="1 guest stays as it was: typo"),
    ):
        upgrade.upgrade_all(["c", "typo"], UpgradeOptions(), CommandContext(Settings()))
    assert [call.args[0] for call in upgraded.call_args_list] == ["c"]
    assert "there is no guest typo" in capsys.readouterr().err


def test_what_can_be_told_of_the_others_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def preview(name: str, *_: object) -> str:
        if name == "a":
            raise VirtrootError("no account file", "")
        return f"what becomes of {name}"

    told: list[tuple[str, object]] = []
    with (
        patch("pipelines.upgrade.plan_upgrade", side_effect=preview),
        pytest.raises(VirtrootError, match="no plan can be made for a"),
    ):
        told.extend(upgrade.plan_all(UpgradeOptions(), CommandContext(Settings())))
    assert ("c", "what becomes of c") in told
    assert ("a", "no plan can be made: no account file") in told
    assert "no account file" in capsys.readouterr().err


@pytest.fixture
def no_engine() -> Iterator[None]:
    """docker's client leaves a socket open where no engine answers."""
    with patch("pipelines.engine.engine.connect", side_effect=VirtrootError("no Docker engine answers", "start it")):
        yield


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("setting", "names"), [("none", None), ("all", ()), ("web, db", ["web", "db"]), (["web"], ["web"])]
)
def test_a_night_upgrades_whom_the_settings_name_and_nobody_by_default(
    setting: object, names: object, tmp_path: Path
) -> None:
    settings = from_section({"upgrade": setting, "output": str(tmp_path)})
    with patch("pipelines.nightly.upgrade_all") as upgraded:
        nightly.nightly([], CommandContext(settings), keep=7, jobs=1)
    assert [call.args[0] for call in upgraded.call_args_list] == ([] if names is None else [names])
    assert all(call.args[1].restart for call in upgraded.call_args_list)


@pytest.mark.parametrize("setting", [None, True, [], "", ["all"], ["web", "none"], "all web"])
def test_what_names_no_guests_is_refused(setting: object) -> None:
    with pytest.raises(VirtrootError, match="upgrade"):
        from_section({"upgrade": setting})


@pytest.mark.usefixtures("no_engine")
def test_a_night_whose_guests_stay_behind_has_failed(tmp_path: Path) -> None:
    with (
        patch("pipelines.nightly.upgrade_all", side_effect=VirtrootError("web does not come up", "look")),
        pytest.raises(CheckFailed, match="web does not come up"),
    ):
        nightly.nightly([], CommandContext(Settings(upgrade="all", output=str(tmp_path))), keep=7, jobs=1)
