from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipelines import prune as pruning_verb
from pipelines.artifact.artifact import PARTIAL, Artifact
from pipelines.artifact.pruning import find_stale
from pipelines.artifact.store import Store
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import previous_roots, swap
from pipelines.guest.previous_roots import PreviousRoot
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import pool
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from pipelines.target.target import Local
from tests.support.artifacts import made
from tests.support.guests import make_source

NOW = datetime(2026, 11, 13, 12, tzinfo=UTC)


def nights(tmp_path: Path, failing: tuple[int, ...] = ()) -> list[Artifact]:
    """Twelve nights' builds; those of ``failing`` days did not pass."""
    for day in range(1, 13):
        made(tmp_path, "web", f"202611{day:02}T030000Z-{day:012x}", good=day not in failing)
    return Store(tmp_path).builds("web")


def days(artifacts: list[Artifact]) -> list[int]:
    return [int(artifact.directory.name[6:8]) for artifact in artifacts]


def test_the_newest_stay(tmp_path: Path) -> None:
    assert days(find_stale(nights(tmp_path), keep=3)) == [*range(1, 10)]
    assert find_stale(nights(tmp_path / "more"), keep=20) == []


def test_the_last_good_one_stays_however_old_it_is(tmp_path: Path) -> None:
    assert days(find_stale(nights(tmp_path, failing=(6, 7, 8, 9, 10, 11, 12)), keep=3)) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_what_is_needed_or_pinned_stays(tmp_path: Path) -> None:
    builds = nights(tmp_path)
    builds[1].pin()
    assert days(find_stale(builds, keep=3, needed={builds[4].id})) == [1, 3, 4, 6, 7, 8, 9]


def test_nothing_goes_that_is_young(tmp_path: Path) -> None:
    assert days(find_stale(nights(tmp_path), keep=3, older_than=timedelta(days=8), now=NOW)) == [1, 2, 3, 4, 5]


def test_a_build_without_a_date_is_old(tmp_path: Path) -> None:
    made(tmp_path, "web", "handmade")
    made(tmp_path, "web", "20261112T030000Z-b")
    assert [
        each.id for each in find_stale(Store(tmp_path).builds("web"), keep=1, older_than=timedelta(days=1), now=NOW)
    ] == ["web/handmade"]


def test_a_directory_that_somebody_named_by_hand_stays(tmp_path: Path) -> None:
    builds = nights(tmp_path)
    mine = builds[0].directory.with_name("20200101T000000Z-mine")
    builds[0].directory.rename(mine)
    found = Store(tmp_path).builds("web")
    assert mine in [each.directory for each in found]
    assert mine not in [each.directory for each in find_stale(found, keep=1)]
    assert len(find_stale(found, keep=1)) == len(found) - 2


def test_a_build_loses_its_name_before_its_files(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    artifact, store = made(tmp_path, "web", "1"), Store(tmp_path)
    monkeypatch.setattr("pipelines.artifact.store.shutil.rmtree", lambda path: None)
    store.delete(artifact)
    assert store.find("web/1") is None
    assert store.builds("web") == []
    monkeypatch.undo()
    store.clear("web")
    assert list((tmp_path / "web").glob(f"{PARTIAL}*")) == []


def test_a_build_that_cannot_be_read_is_left_alone_and_stops_no_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(1, 6):
        made(tmp_path, "web", f"2026110{day}T030000Z-x")
    (tmp_path / "web" / "20261101T030000Z-x" / "manifest.json").write_text("{")
    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: None)
    monkeypatch.setattr(pool, "find_directory", lambda hypervisor, settings: None)
    monkeypatch.setattr(guests, "list_guests", lambda hypervisor: [])
    assert pruning_verb.prune(["web"], CommandContext(Settings(output=str(tmp_path))), keep=2) == [
        "web/20261102T030000Z-x",
        "web/20261103T030000Z-x",
    ]
    assert "not deleting web/20261101T030000Z-x" in " ".join(capsys.readouterr().err.split())


def test_what_a_guest_was_made_from_while_the_question_stood_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(1, 5):
        made(tmp_path, "web", f"2026110{day}T030000Z-x")
    used: list[SimpleNamespace] = []

    def asking(question: str) -> bool:
        assert question == "Delete these 2 builds?"
        used.append(SimpleNamespace(source=make_source("web/20261101T030000Z-x")))
        return True

    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: None)
    monkeypatch.setattr(pool, "find_directory", lambda hypervisor, settings: None)
    monkeypatch.setattr(guests, "list_guests", lambda hypervisor: used)
    gone = pruning_verb.prune(["web"], CommandContext(Settings(output=str(tmp_path))), keep=2, asking=asking)
    assert gone == ["web/20261102T030000Z-x"]


def test_former_roots_go_by_age_and_only_those_that_were_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose guest is busy, or gone, stays, and keeps nothing else."""
    now = datetime.now(UTC)
    ages = {"web": [30, 1], "busy": [30]}
    found = {
        name: [
            PreviousRoot(f"/pool/former.{name}/{days}", f"{now - timedelta(days=days):%Y%m%dT%H%M%SZ}", make_source())
            for days in each
        ]
        for name, each in ages.items()
    }
    gone: list[str] = []

    @contextmanager
    def held(_: object, name: str) -> Iterator[object]:
        if name == "busy":
            raise Busy("the guest busy", "wait")
        yield next(each for each in every if each.name == name)

    every = [SimpleNamespace(name=name, source=make_source("web/1")) for name in found]
    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: None)
    monkeypatch.setattr(pool, "find_directory", lambda hypervisor, settings: None)
    monkeypatch.setattr(guests, "list_guests", lambda hypervisor: every)
    monkeypatch.setattr("pipelines.guest.hold.hold", held)
    monkeypatch.setattr(previous_roots, "list_previous", lambda guest: found[guest.name])
    monkeypatch.setattr(previous_roots, "find_failed", lambda guest: f"/pool/former.{guest.name}/failed")
    monkeypatch.setattr(previous_roots, "delete", lambda guest, directories: gone.extend(directories))

    def asking(question: str) -> bool:
        found["web"].append(PreviousRoot("/pool/former.web/late", "20200101T000000Z", make_source()))
        return question == "Delete these 2 previous roots?"

    settings = Settings(output=str(tmp_path))
    old = timedelta(days=14)
    assert pruning_verb.prune([], CommandContext(settings), keep=2, previous=True, older_than=old, asking=asking) == [
        "/pool/former.web/30"
    ]
    assert gone == ["/pool/former.web/30"]
    assert "cannot delete the previous roots of busy: another task works on the guest busy" in " ".join(
        capsys.readouterr().err.split()
    )
    every.pop()
    assert pruning_verb.prune([], CommandContext(settings), keep=2, previous=True)[-1] == "/pool/former.web/failed"


def test_a_guest_whose_former_roots_cannot_be_read_keeps_them_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = [SimpleNamespace(name=name, source=make_source("web/1")) for name in ("odd", "fine")]

    def of(guest: SimpleNamespace, _: object) -> list[str]:
        if guest.name == "odd":
            raise VirtrootError("its record is damaged", "")
        return ["/pool/former.fine/1"]

    monkeypatch.setattr(guests, "list_guests", lambda _: fleet)
    monkeypatch.setattr(pruning_verb, "_list_previous_roots", of)
    assert pruning_verb._find_previous_roots(cast("Hypervisor", None), [], None) == {"fine": ["/pool/former.fine/1"]}
    assert "cannot list the previous roots of odd: its record is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("record", ["", "{", "[]", '{"no": "such field"}'])
def test_a_damaged_record_of_a_former_root_is_an_error_that_names_it(tmp_path: Path, record: str) -> None:
    (tmp_path / "made").write_text(record)
    with pytest.raises(VirtrootError, match="made is damaged"):
        swap.read_description(Local(), str(tmp_path))
