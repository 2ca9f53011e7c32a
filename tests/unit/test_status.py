"""The watchdog: a night that never ran is found, whatever the last one said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines import status
from pipelines.artifact.history import Failure, RunRecord
from pipelines.artifact.store import Store
from pipelines.builder import inputs
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.settings import Settings
from tests.support.artifacts import made

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "list_nightly", lambda _: [Path("/nowhere/web.yaml"), Path("/nowhere/mail.yaml")])


def record(store: Store, recipe: str, day: int, *, good: bool = True) -> None:
    failure = None if good else Failure.of(Phase.BOOT, "the guest night-web did not come up: no agent answered", "why")
    store.history(recipe).append(
        RunRecord(
            recipe=recipe,
            time=f"2026-11-{day:02}T03:00:00Z",
            seconds=1,
            outcome="unchanged" if good else "failed",
            failure=failure,
        )
    )


def rows(tmp_path: Path) -> dict[str, status.Row]:
    return {row.recipe: row for row in status.list_status(CommandContext(Settings(output=str(tmp_path))), NOW)}


def test_a_recipe_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.golden

    def golden(store: Store, recipe: str) -> object:
        if recipe == "mail":
            raise VirtrootError("its manifest is damaged", "")
        return real(store, recipe)

    monkeypatch.setattr(Store, "golden", golden)
    record(Store(tmp_path), "web", 10)
    found = rows(tmp_path)
    assert (found["web"].outcome, found["mail"].outcome) == ("unchanged", "cannot be told")
    assert "its manifest is damaged" in status.format_table(list(found.values()))
    with pytest.raises(CheckFailed, match=": mail"):
        status.refuse_stale(list(found.values()), "2d")


def test_an_old_golden_root_that_last_night_found_in_order_is_fine(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for recipe in ("web", "mail"):
        store.golden(recipe).promote(made(tmp_path, recipe, "20261001T030000Z-1"))
        record(store, recipe, 10)
    found = rows(tmp_path)
    assert found["web"].age == 40 * 86400 + 9 * 3600
    assert (found["web"].outcome, found["web"].checked) == ("unchanged", 9 * 3600)
    status.refuse_stale(list(found.values()), "36h")


def test_a_night_that_never_ran_is_found(tmp_path: Path) -> None:
    record(Store(tmp_path), "web", 8)
    with pytest.raises(CheckFailed, match="no good nightly run within 36h: mail, web") as refused:
        status.refuse_stale(list(rows(tmp_path).values()), "36h")
    assert refused.value.exit_code == 1
    with pytest.raises(CheckFailed, match=r"within 14d: mail\n"):
        status.refuse_stale(list(rows(tmp_path).values()), "14d")


def test_failing_nights_are_no_good_nights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "web", 7)
    for day in (8, 9, 10):
        record(store, "web", day, good=False)
    row = rows(tmp_path)["web"]
    assert (row.outcome, row.since) == ("failed", "2026-11-08T03:00:00Z")
    assert row.why == "did not come up: no agent answered"
    assert row.checked == 3 * 86400 + 9 * 3600
    assert "failed: did not come up" in status.format_table([row])


def test_a_night_of_the_future_is_none(tmp_path: Path) -> None:
    for recipe in ("web", "mail"):
        record(Store(tmp_path), recipe, 30)
    with pytest.raises(CheckFailed, match="no good nightly run within 36h: mail, web"):
        status.refuse_stale(list(rows(tmp_path).values()), "36h")


def test_nights_are_due_where_there_are_any(tmp_path: Path) -> None:
    """A recipe that no night builds, one of somewhere else that a night once built, and one that was deleted since."""
    store = Store(tmp_path)
    for recipe in ("once", "elsewhere", "gone"):
        made(tmp_path, recipe, "20261001T030000Z-1")
    for recipe in ("web", "mail"):
        record(store, recipe, 10)
    for recipe in ("elsewhere", "gone"):
        record(store, recipe, 1)
    source = tmp_path / "elsewhere.yaml"
    source.touch()
    (tmp_path / "elsewhere" / ".recipe").write_text(f"{source}\n")
    found = rows(tmp_path)
    assert {name for name, row in found.items() if row.due} == {"web", "mail", "elsewhere"}
    with pytest.raises(CheckFailed, match=r"no good nightly run within 36h: elsewhere\n"):
        status.refuse_stale(list(found.values()), "36h")
    cells = {line.split()[0]: line.split()[3] for line in status.format_table(list(found.values())).splitlines()[1:]}
    assert cells["once"] == "-"
