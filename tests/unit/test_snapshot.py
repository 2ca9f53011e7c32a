"""A root from the dated archive: which time, which addresses, and what of them stays in the root."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.builder import inputs
from pipelines.errors import VirtrootError
from pipelines.recipe.parse import parse
from pipelines.recipe.plan import Plan, as_data, as_text, make_plan
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.snapshot import resolve
from pipelines.recipe.stage import Command
from pipelines.settings import Settings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ARCHIVES = {
    "debian": "http://old.example/{archive}/{time}",
    "arch": "http://old.example/{year}/{month}/{day}/$repo/os/$arch",
}
SETTINGS = Settings(debian_snapshots=ARCHIVES["debian"], arch_snapshots=ARCHIVES["arch"])
AT = "20261101T020304Z"


def resolved(text: str, at: str = AT) -> Recipe:
    return resolve(parse(text, "r.yaml", {"snapshot": at}), ARCHIVES, NOW)


def words(plan: Plan, stage: str = "") -> list[str]:
    """Every word of the commands of a stage, or of all that happens before and in the stages."""
    steps = [step for each in plan.stages if stage in {"", each.name} for step in each.steps]
    steps += [] if stage else [*plan.builder_setup, plan.mirror_query]
    return [word for step in steps if isinstance(step, Command) for word in step.argv]


def test_the_addresses_are_those_of_the_date() -> None:
    debian, arch = resolved("distro: debian").snapshot, resolved("distro: arch").snapshot
    assert debian
    assert arch
    assert (debian.mirror, debian.security_mirror) == (
        f"http://old.example/debian/{AT}",
        f"http://old.example/debian-security/{AT}",
    )
    assert (arch.mirror, arch.security_mirror) == ("http://old.example/2026/11/01/$repo/os/$arch", None)


@pytest.mark.parametrize("distro", ["debian", "arch"])
def test_packages_come_from_the_archive_and_the_guest_keeps_its_mirrors(distro: str) -> None:
    recipe = f"distro: {distro}\nmirror: http://own.example/$repo"
    plan = make_plan(resolved(recipe))
    everything = words(plan)
    assert any("old.example" in word for word in everything)
    where = {stage.name for stage in plan.stages if any("own.example" in word for word in words(plan, stage.name))}
    # Where the root is given its sources; nothing is fetched from there.
    assert where == ({"kernel", "finish"} if distro == "debian" else {"finish"})
    usual = make_plan(parse(recipe, "r.yaml"))
    assert not any("old.example" in word for word in words(usual))


def test_an_expired_release_is_taken_from_a_dated_archive_alone() -> None:
    dated, usual = (make_plan(each) for each in (resolved("distro: debian"), parse("distro: debian", "r.yaml")))
    assert "--dated" in words(dated, "base")
    assert "--dated" not in words(usual)
    assert [word for word in words(dated) if word in {"lend", "take-back"}] == ["lend", "take-back"]
    assert not {"lend", "take-back"} & set(words(usual))


def test_the_plan_shows_the_snapshot_and_keeps_it_as_data() -> None:
    plan = make_plan(resolved("distro: arch"))
    line = f"snapshot: {AT} from http://old.example/2026/11/01/$repo/os/$arch"
    assert line in as_text(plan).splitlines()
    kept = as_data(plan)["recipe"]
    assert kept["snapshot"]["mirror"] == "http://old.example/2026/11/01/$repo/os/$arch"
    # What a manifest keeps is a recipe again, which needs no setting.
    assert resolve(Recipe.model_validate(kept), {}, NOW) == plan.recipe


@pytest.mark.parametrize(
    "at",
    ["yesterday", "20261101", "2026-11-01T00:00:00Z", "20261301T000000Z", "20261101T000060Z", "２０２６1101T000000Z"],
)
def test_a_time_that_is_none_is_refused(at: str) -> None:
    with pytest.raises(VirtrootError, match=r"--snapshot: invalid snapshot time '.*'; use UTC"):
        parse("distro: debian", "r.yaml", {"snapshot": at})
    with pytest.raises(VirtrootError, match=r"r.yaml:2: snapshot"):
        parse(f"distro: debian\nsnapshot: {at}", "r.yaml")


def test_a_time_in_the_future_is_refused() -> None:
    resolved("distro: debian", "20261123T120000Z")
    with pytest.raises(VirtrootError, match="20261123T120001Z is in the future"):
        resolved("distro: debian", "20261123T120001Z")


@pytest.mark.parametrize("distro", ["debian", "arch"])
def test_where_no_archive_is_known_the_setting_is_named(distro: str) -> None:
    with pytest.raises(VirtrootError, match=f"the setting virtroot.{distro}_snapshots is empty") as error:
        resolve(parse(f"distro: {distro}", "r.yaml", {"snapshot": AT}), {}, NOW)
    assert f"INVOKE_VIRTROOT_{distro.upper()}_SNAPSHOTS" in error.value.hint


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ("distro: debian\nsnapshot: {time: 20261101T000000Z, mirror: http://a.example}", "require each other"),
        ("distro: arch\nsnapshot: {time: 20261101T000000Z, security_mirror: http://a.example}", "is for debian"),
        ("distro: debian\nsnapshot: {mirror: http://a.example}", "snapshot.time: required key is missing"),
        ("distro: debian\nsnapshot: {time: 20261101T000000Z, when: now}", "snapshot.when: unknown key"),
    ],
)
def test_half_a_snapshot_is_refused(recipe: str, why: str) -> None:
    with pytest.raises(VirtrootError, match=why):
        parse(recipe, "r.yaml")


def test_a_snapshot_that_an_option_asks_for_is_no_build_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("distro: debian\n")
    path = str(tmp_path / "web.yaml")
    assert inputs.find(recipe=path, overrides={"snapshot": "20200101T000000Z"}, settings=SETTINGS).overridden
    (tmp_path / "web.yaml").write_text("distro: debian\nsnapshot: 20200101T000000Z\n")
    found = inputs.find(recipe=path, settings=SETTINGS)
    assert (found.overridden, found.recipe.snapshot is not None) == (False, True)
