"""What a new project directory has, and what stays in one that exists."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pipelines import init, project
from pipelines.errors import VirtrootError
from pipelines.project import PROGRAM, SYSTEM
from pipelines.settings import from_section, list_defaults
from pipelines.target import durable


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


def test_a_new_directory_is_complete_and_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "a b" / "vms"
    written = init.init(made)
    assert {str(path.relative_to(made)) for path in written} == {
        ".gitignore",
        "recipes/arch.yaml",
        "recipes/debian.yaml",
        "recipes/schema.json",
        "tasks.py",
        "tests/.gitkeep",
        "virtroot.yaml",
    }
    monkeypatch.chdir(made / "recipes")
    assert project.find() == made
    assert project.read_settings(made) == {}


def test_what_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "web.yaml").write_text("distro: debian\n")
    (tmp_path / "tasks.py").symlink_to("elsewhere.py")
    (tmp_path / "virtroot.yaml").write_text("keep: 3\n")
    written = init.init(tmp_path)
    assert sorted(path.name for path in written) == [".gitignore", ".gitkeep"]
    assert (tmp_path / "tasks.py").readlink() == Path("elsewhere.py")
    assert project.read_settings(tmp_path) == {"keep": 3}
    assert [path.name for path in (tmp_path / "recipes").iterdir()] == ["web.yaml"]
    assert init.init(tmp_path) == []


@pytest.mark.parametrize("directory", [Path("/srv/vms"), SYSTEM])
def test_every_line_of_the_settings_is_a_default(directory: Path) -> None:
    text = init.make_settings_file(directory)
    lines = [line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")]
    found = yaml.safe_load("\n".join(lines))
    assert found.pop("format") == project.FORMAT
    defaults = list_defaults(directory)
    assert found.keys() == defaults.keys()
    assert from_section(found, directory) == from_section(defaults, directory)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VirtrootError, match="not a directory"):
        init.init(tmp_path / "file")


def test_a_directory_with_a_broken_file_is_not_trusted(tmp_path: Path) -> None:
    for name in ("virtroot.yaml", "virtroot.yml"):
        (tmp_path / name).touch()
    with pytest.raises(VirtrootError, match="has both"):
        init.init(tmp_path)
    assert not (tmp_path / "home").exists()


def test_a_checkout_gets_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "is_checkout", lambda directory: directory == tmp_path)
    assert init.init(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_recipes_are_those_of_the_program(tmp_path: Path) -> None:
    init.init(tmp_path / "vms")
    for name in ("debian.yaml", "arch.yaml", "schema.json"):
        assert (tmp_path / "vms/recipes" / name).read_bytes() == (PROGRAM / "recipes" / name).read_bytes()


class Killed(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("step", range(6))
def test_a_killed_init_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    made, left = tmp_path / "vms", [step]

    def kill(partial: Path, path: Path) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        publish(partial, path)

    publish = durable.publish
    with monkeypatch.context() as patched:
        patched.setattr(durable, "publish", kill)
        with suppress(Killed):
            init.init(made)
            assert step == 5
    # The file that makes it a project directory is the last one.
    assert (made / "virtroot.yaml").exists() == (step == 5)
    init.init(made)
    assert {path.name for path in made.iterdir()} == {".gitignore", "recipes", "tasks.py", "tests", "virtroot.yaml"}
    assert {path.name for path in (made / "recipes").iterdir()} == {"arch.yaml", "debian.yaml", "schema.json"}


def test_planted_links_lead_nowhere(tmp_path: Path) -> None:
    """A guest can plant them in a share, in which an administrator types init."""
    project_directory, outside = tmp_path / "share", tmp_path / "outside"
    for directory in (project_directory, outside):
        directory.mkdir()
    (outside / "victim").write_text("mine")
    for name in (".virtroot.yaml.partial", ".tasks.py.partial", ".recipes.partial"):
        (project_directory / name).symlink_to(outside / "victim")
    (project_directory / "tests").symlink_to(outside)
    init.init(project_directory)
    assert (outside / "victim").read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert not (project_directory / "virtroot.yaml").is_symlink()


def test_settings_under_the_other_name_stay(tmp_path: Path) -> None:
    (tmp_path / "virtroot.yml").write_text("keep: 3\n")
    init.init(tmp_path)
    assert not (tmp_path / "virtroot.yaml").exists()
    assert project.read_settings(tmp_path) == {"keep": 3}


def test_a_name_that_no_list_can_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("two\nlines", "carriage\rreturn", "\x1b[0m"):
        with pytest.raises(VirtrootError, match="control characters"):
            init.init(tmp_path / name)
    assert [*tmp_path.iterdir()] == []
