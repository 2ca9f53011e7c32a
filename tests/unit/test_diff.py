from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines import diff as comparing
from pipelines.artifact import archive, naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Package
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.settings import Settings
from tests.unit.artifacts import made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four builds of web, the third golden, the fourth the latest; one of mail."""
    for build in "1234":
        made(tmp_path, "web", build)
    made(tmp_path, "mail", "9")
    (tmp_path / "web" / "golden").symlink_to("3")
    (tmp_path / "web" / "latest").symlink_to("4")
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("named", "recipe", "expected"),
    [
        ("web/2", "", "web/2"),
        ("golden", "web", "web/3"),
        ("latest", "web", "web/4"),
        ("latest~3", "web", "web/1"),
        ("golden~1", "web", "web/2"),
        ("web/latest~0", "mail", "web/4"),
        ("2", "web", "web/2"),
    ],
)
def test_a_build_is_named_by_its_id_or_by_what_it_is(store: Store, named: str, recipe: str, expected: str) -> None:
    assert naming.resolve(store, named, recipe).id == expected


@pytest.mark.parametrize(
    ("named", "recipe", "what", "hint"),
    [
        ("golden", "", "'golden' of which recipe?", "recipes: mail, web"),
        ("golden", "mail", "mail has no golden build", "builds of mail: 9"),
        ("latest~4", "web", "web has 4 builds up to its latest one, not 5", "builds of web: 1, 2, 3, 4"),
        ("golden", "nobody", "nothing is kept of nobody", "recipes with builds: mail, web"),
        ("web/7", "", "no artifact web/7", "builds of web"),
        ("../web/1", "", "no artifact", "recipes with builds"),
        ("latest~-1", "web", "no artifact web/latest~-1", "builds of web"),
    ],
)
def test_what_names_no_build_is_refused_with_those_there_are(
    store: Store, named: str, recipe: str, what: str, hint: str
) -> None:
    with pytest.raises(VirtrootError) as refused:
        naming.resolve(store, named, recipe)
    assert what in refused.value.what
    assert hint in refused.value.hint


def test_packages_are_a_line_each(tmp_path: Path) -> None:
    made(tmp_path, "web", "1")
    newer = (Package(name="systemd", version="258"), Package(name="evil\x1b[2J", version="1"))
    made(tmp_path, "web", "2", packages=newer, kernel_version="6.13")
    text = comparing.as_text(comparing.diff("web/1", "web/2", "", Settings(output=str(tmp_path))))
    assert "kernel   6.12 -> 6.13" in text
    assert "upgraded (1)\n  ^ systemd 257 -> 258\n" in text
    assert "added (1)\n  + evil" in text
    same = comparing.as_text(comparing.diff("2", "2", "web", Settings(output=str(tmp_path))))
    assert "the same packages in the same versions" in same


def pack(root: Path, artifact: Artifact) -> None:
    with artifact.tarball.open("wb") as tarball:
        subprocess.run(archive.pack_argv(str(root), 1_700_000_000), stdout=tarball, check=True)


def test_files_that_came_went_or_changed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for name in ("gone", "grows", "odd name\n-> x", "same"):
        (root / "etc" / name).write_text("1")
    (root / "etc" / "link").symlink_to("gone")
    first, second = made(tmp_path, "web", "1"), made(tmp_path, "web", "2")
    pack(root, first)
    (root / "etc" / "gone").unlink()
    (root / "etc" / "grows").write_text("12345")
    (root / "etc" / "new").write_text("12")
    (root / "etc" / "link").unlink()
    (root / "etc" / "link").symlink_to("same")
    (root / "etc" / "odd name\n-> x").chmod(0o600)
    pack(root, second)
    compared = comparing.diff("web/1", "web/2", "", Settings(output=str(tmp_path)), files=True)
    lines = comparing.as_text(compared).partition("files (")[2].splitlines()
    found = {line.split("  ")[1]: line.partition("  ")[2].partition("  ")[2] for line in lines[1:]}
    assert found == {
        "- /etc/gone": "1 B",
        "~ /etc/grows": "size 1 B -> 5 B",
        "~ /etc/link": "target gone -> same",
        "+ /etc/new": "2 B",
        "~ /etc/odd name\\n-> x": "mode -rw-r--r-- -> -rw-------",
    }
    assert compared["files"][0]["after"] is None


def test_a_tarball_that_is_gone_is_said(tmp_path: Path) -> None:
    for build in "12":
        made(tmp_path, "web", build)
    with pytest.raises(VirtrootError, match="tar"):
        comparing.diff("web/1", "web/2", "", Settings(output=str(tmp_path)), files=True)
