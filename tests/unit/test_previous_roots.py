"""An upgraded guest that does not do goes back, and so does any guest that is asked to, whatever state it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from pipelines import rollback, upgrade
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import previous_roots
from pipelines.guest.guest import Guest
from pipelines.pool.place import Place
from pipelines.settings import Settings
from pipelines.target.target import Local
from pipelines.upgrade import WentBack

ARTIFACT: Any = SimpleNamespace(id="web/2")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the guest, in order; each can be made to fail."""
    done: list[str] = []
    guest = MagicMock(spec=Guest, running=True, hypervisor=None)
    guest.name = "web"

    @contextmanager
    def held(*_: object) -> Iterator[Guest]:
        done.append("hold")
        yield guest
        done.append("let go")

    def note(what: str, returned: object = None) -> Any:
        def noted(*_: object, **__: object) -> object:
            done.append(what)
            return returned

        return noted

    guest.stop.side_effect = note("stop", 1.0)

    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda _: None)
    monkeypatch.setattr("pipelines.merge.preparation.hold_guest", held)
    monkeypatch.setattr("pipelines.guest.hold.keep_off", lambda *_: nullcontext())
    monkeypatch.setattr("pipelines.guest.publication.refuse_kept", lambda _: None)
    monkeypatch.setattr("pipelines.guest.publication.start", note("start", 1.0))
    monkeypatch.setattr("pipelines.verify.verify_locked", note("verify"))
    monkeypatch.setattr("pipelines.merge.preparation.swap_back", note("put back"))
    monkeypatch.setattr(previous_roots, "list_previous", lambda _: ["former"])
    monkeypatch.setattr(previous_roots, "keep_failed", note("set aside"))
    monkeypatch.setattr(previous_roots, "find_failed", lambda _: "/pool/former.web/failed")
    monkeypatch.setattr(previous_roots, "record_refusal", note("refuse"))
    monkeypatch.setattr(previous_roots, "delete_old", note("forget"))
    monkeypatch.setattr("pipelines.guest.guest.get", lambda *_: guest)
    return done


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_what_is_proven_stays(done: list[str]) -> None:
    upgrade._prove_guest(upgrade.guests.get(None, "web"), ARTIFACT, CommandContext(Settings()))  # type: ignore[attr-defined]
    assert done == ["start", "verify"]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (CheckFailed("1 of 9 checks failed", "look"), ["refuse"]),
        (VirtrootError("1 of 9: it did not come up", "look", where=Phase.BOOT), ["refuse"]),
        # That is this machine's.
        (OSError(28, "No space left on device"), []),
    ],
)
def test_what_is_not_goes_back_before_anything_is_noted(
    done: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, refused: list[str]
) -> None:
    monkeypatch.setattr("pipelines.verify.verify_locked", failing(error))
    with pytest.raises(WentBack, match=r"1 of 9|No space left") as raised:
        upgrade._prove_guest(upgrade.guests.get(None, "web"), ARTIFACT, CommandContext(Settings()))  # type: ignore[attr-defined]
    assert done == ["start", "stop", "put back", *refused, "set aside", "start"]
    assert raised.value.exit_code == getattr(error, "exit_code", 2)


def test_a_full_disk_and_a_guest_that_ended_by_itself_keep_nobody_from_going_back(
    done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = VirtrootError("it did not come up", "look", where=Phase.BOOT)
    monkeypatch.setattr("pipelines.verify.verify_locked", failing(down))
    monkeypatch.setattr(previous_roots, "record_refusal", failing(VirtrootError("No space left on device", "")))
    upgrade.guests.get(None, "web").stop.side_effect = VirtrootError("it is off", "")  # type: ignore[attr-defined]
    with pytest.raises(VirtrootError, match="it did not come up"):
        upgrade._prove_guest(upgrade.guests.get(None, "web"), ARTIFACT, CommandContext(Settings()))  # type: ignore[attr-defined]
    assert done == ["start", "put back", "set aside", "start"]
    assert f"cannot record that web failed on {ARTIFACT.id}: No space left on device" in capsys.readouterr().err


def test_who_stops_waiting_is_told_how_to_go_back(
    done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.verify.verify_locked", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        upgrade._prove_guest(upgrade.guests.get(None, "web"), ARTIFACT, CommandContext(Settings()))  # type: ignore[attr-defined]
    assert done == ["start"]
    assert "./inv rollback web --restart" in capsys.readouterr().err


def test_a_root_of_which_nothing_can_be_told_is_left_all_the_same(
    done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        rollback, "_report_changes", failing(VirtrootError("etc/fstab in /pool/root.web is no text", ""))
    )
    rollback.rollback("web", CommandContext(Settings()), restart=True)
    assert done == ["hold", "stop", "put back", "start", "forget", "let go"]
    assert "cannot determine what web wrote since it got its root; it stays there: etc/fstab" in capsys.readouterr().err


@pytest.fixture
def guest(tmp_path: Any) -> Any:
    paths = Place(str(tmp_path), "web")
    return SimpleNamespace(name="web", root=paths.root, target=Local(), previous_roots=tmp_path / "former.web")


def former(guest: Any, when: str, *, whole: bool = True) -> None:
    about = guest.previous_roots / when / "about"
    about.mkdir(parents=True)
    (guest.previous_roots / when / "root").mkdir()
    if whole:
        made = '{"artifact": "web/1", "kernel": "k", "initrd": "", "cmdline": "", "golden": "", "lower": ""}'
        (about / "made").write_text(made)


def test_former_roots_are_called_after_each_other_whatever_the_clock_says(guest: Any) -> None:
    first = previous_roots.choose_directory(guest)
    assert first.rpartition("/")[0] == str(guest.previous_roots)
    former(guest, "29991231T235959Z")
    assert previous_roots.choose_directory(guest) == f"{guest.previous_roots}/30000101T000000Z"
    former(guest, "30000101T000000Z")
    assert [each.when for each in previous_roots.list_previous(guest)] == ["29991231T235959Z", "30000101T000000Z"]


def test_what_is_half_deleted_is_no_former_root(guest: Any) -> None:
    assert previous_roots.list_previous(guest) == []
    former(guest, "20260101T000000Z", whole=False)
    former(guest, "20260102T000000Z")
    assert [each.when for each in previous_roots.list_previous(guest)] == ["20260102T000000Z"]


def test_what_a_guest_failed_on_is_no_former_root_and_one_is_kept(guest: Any) -> None:
    former(guest, "20260101T000000Z")
    for day in (2, 3):
        former(guest, f"2026010{day}T000000Z")
        newest = previous_roots.list_previous(guest)[-1]
        (guest.previous_roots / newest.when / "root" / f"of day {day}").touch()
        previous_roots.keep_failed(guest, newest.directory)
        assert [each.when for each in previous_roots.list_previous(guest)] == ["20260101T000000Z"]
    failed = previous_roots.find_failed(guest)
    assert failed == f"{guest.previous_roots}/failed"
    assert [path.name for path in (guest.previous_roots / "failed/root").iterdir()] == ["of day 3"]
    previous_roots.delete(guest, [failed])
    assert previous_roots.find_failed(guest) == ""


def test_a_former_root_has_no_name_any_more_when_it_is_deleted(guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2, 3):
        former(guest, f"2026010{day}T000000Z")
    monkeypatch.setattr("pipelines.target.subvolume.delete", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        previous_roots.delete_old(guest)
    assert [each.when for each in previous_roots.list_previous(guest)] == ["20260102T000000Z", "20260103T000000Z"]
    [hidden] = [path for path in guest.previous_roots.parent.iterdir() if path.name.startswith(".root.web@")]
    assert (hidden / "about/made").is_file()
