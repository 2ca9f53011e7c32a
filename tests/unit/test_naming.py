from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifact.naming import resolve
from pipelines.errors import VirtrootError
from tests.support.artifacts import made

BUILDS = [f"2026110{day}T020000Z-{day:012x}" for day in range(1, 7)]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Six builds of web, the fourth golden, the fifth latest (the sixth had options), and one of db."""
    for build in BUILDS:
        made(tmp_path, "web", build)
    made(tmp_path, "db", BUILDS[0])
    (tmp_path / "web" / "golden").symlink_to(BUILDS[3])
    (tmp_path / "web" / "latest").symlink_to(BUILDS[4])
    return tmp_path


@pytest.mark.parametrize(
    ("text", "build"),
    [
        (f"web/{BUILDS[2]}", 2),
        (BUILDS[2], 2),
        ("golden", 3),
        ("web/golden", 3),
        ("golden~", 2),
        ("golden~3", 0),
        ("latest", 4),
        ("latest~0", 4),
        ("web/latest~3", 1),
    ],
)
def test_a_name_is_a_build(output: Path, text: str, build: int) -> None:
    assert resolve(output, text, "web").directory == output / "web" / BUILDS[build]


def test_the_only_recipe_with_builds_needs_no_name(tmp_path: Path) -> None:
    made(tmp_path, "web", BUILDS[0])
    (tmp_path / "empty").mkdir()
    assert resolve(tmp_path, BUILDS[0]).id == f"web/{BUILDS[0]}"
    with pytest.raises(VirtrootError, match="no recipe given"):
        resolve(tmp_path, f"/{BUILDS[0]}")


def test_a_recipe_in_the_name_counts_more_than_the_one_given(output: Path) -> None:
    assert resolve(output, f"db/{BUILDS[0]}", "web").id == f"db/{BUILDS[0]}"


@pytest.mark.parametrize(
    ("text", "recipe", "what", "hint"),
    [
        ("latest", "", "no recipe given", "--recipe NAME"),
        ("latest~5", "web", "only 4 builds are older", BUILDS[1]),
        ("latest~999999999", "web", "only 4 builds are older", BUILDS[1]),
        ("golden", "db", "no golden build", BUILDS[0]),
        ("latest", "db", "no latest build", BUILDS[0]),
        ("lates", "web", "no build lates", "1 older"),
        ("latest~-1", "web", "no build latest~-1", BUILDS[5]),
        ("latest~²", "web", "no build", BUILDS[5]),
        ("nobody/latest", "", "no build of nobody", "db, web"),
        ("../web/golden", "", "no build of ../web", "db, web"),
        ("web/../golden", "", "no build of", "db, web"),
        ("/golden", "web", "no recipe given", "--recipe"),
        ("web/\0", "", "no build", BUILDS[5]),
        ("a\0/x", "", "no build", "db, web"),
        ("", "", "no recipe given", "--recipe"),
        ("~1", "web", "no build ~1", BUILDS[5]),
    ],
)
def test_a_name_of_nothing_says_what_there_is(output: Path, text: str, recipe: str, what: str, hint: str) -> None:
    with pytest.raises(VirtrootError) as raised:
        resolve(output, text, recipe)
    assert what in raised.value.what
    assert hint in raised.value.hint


def test_a_link_that_leads_elsewhere_names_nothing(output: Path, tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere", "web", BUILDS[0])
    (output / "web" / "latest").unlink()
    (output / "web" / "latest").symlink_to(tmp_path / "gone")
    with pytest.raises(VirtrootError):
        resolve(output, "web/latest")
    (output / "web" / "latest").unlink()
    (output / "web" / "latest").symlink_to(elsewhere.directory.parent / "20991231T000000Z-0")
    with pytest.raises(VirtrootError):
        resolve(output, "web/latest")
