"""What the list of builds says of each."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import builds
from pipelines.artifact.store import Store
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.settings import Settings
from tests.support.artifacts import made
from tests.support.guests import make_source

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandContext:
    """Make three builds of two recipes, a golden and a pinned one, and guests of one of them."""
    store = Store(tmp_path)
    for day in (1, 2):
        made(tmp_path, "web", f"2026110{day}T030000Z-x", good=day == 2)
    made(tmp_path, "mail", "20261101T030000Z-y")
    first, second = store.builds("web")
    first.pin()
    store.golden("web").promote(second)
    guests = [SimpleNamespace(name=name, source=make_source("web/20261102T030000Z-x")) for name in ("a", "b")]
    monkeypatch.setattr("pipelines.libvirt.connect.find", lambda _: SimpleNamespace())
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda _: guests)
    return CommandContext(Settings(output=str(tmp_path)))


def test_all_builds_are_listed_the_newest_of_each_recipe_first(ctx: CommandContext) -> None:
    rows = builds.list_builds("", ctx, NOW)
    assert [row.id for row in rows] == ["mail/20261101T030000Z-y", "web/20261102T030000Z-x", "web/20261101T030000Z-x"]
    assert [(row.golden, row.pinned) for row in rows] == [(False, False), (True, False), (False, True)]
    assert [row.used_by for row in rows] == [(), ("a", "b"), ()]
    assert [row.age for row in rows] == [57 * 3600, 33 * 3600, 57 * 3600]
    assert [row.checks.get("guest") for row in rows] == ["passed", "passed", "failed"]
    assert all(row.kernel and row.size is not None for row in rows)


def test_the_builds_of_one_recipe_are_listed(ctx: CommandContext) -> None:
    assert [row.id for row in builds.list_builds("mail", ctx, NOW)] == ["mail/20261101T030000Z-y"]
    with pytest.raises(VirtrootError, match="no build of nope") as refused:
        builds.list_builds("nope", ctx, NOW)
    assert refused.value.hint == "use one of the recipes with builds: mail, web"


def test_a_build_that_cannot_be_read_hides_no_other(ctx: CommandContext, tmp_path: Path) -> None:
    (tmp_path / "web/20261101T030000Z-x/manifest.json").write_text("{")
    rows = builds.list_builds("web", ctx, NOW)
    assert [bool(row.why) for row in rows] == [False, True]
    assert rows[1].pinned
    assert rows[1].why in builds.format_table(rows)


def test_builds_are_listed_where_no_libvirt_answers(
    ctx: CommandContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise VirtrootError("libvirt does not answer", "start it")

    monkeypatch.setattr("pipelines.libvirt.connect.find", refuse)
    assert {row.used_by for row in builds.list_builds("", ctx, NOW)} == {()}
    assert "cannot list the guests that use builds: libvirt does not answer" in capsys.readouterr().err
    monkeypatch.setattr("pipelines.libvirt.connect.find", lambda _: None)
    assert len(builds.list_builds("", ctx, NOW)) == 3


def test_the_table_has_what_people_look_for(ctx: CommandContext) -> None:
    rows = builds.list_builds("web", ctx, NOW)
    lines = builds.format_table([rows[0], replace(rows[1], used_by=())]).splitlines()
    assert lines[0].split() == ["BUILD", "AGE", "KERNEL", "SIZE", "CHECKS", "STATE", "USED", "BY"]
    assert "golden" in lines[1]
    assert lines[1].endswith("a, b")
    assert "guest failed" in lines[2]
    assert "pinned" in lines[2]
    assert builds.format_table([]) == ""
    assert json.loads(json.dumps([asdict(row) for row in rows]))[0]["used_by"] == ["a", "b"]
