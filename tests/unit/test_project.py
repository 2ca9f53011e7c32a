"""Which directory is the project directory, and what its file may have."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import project
from pipelines.errors import VirtrootError
from pipelines.project import PROGRAM


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a user that knows no project directory, with an installed program, in a directory that is no project."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_STATE_HOME", "SUDO_UID", project.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(project, "is_checkout", lambda _: False)
    monkeypatch.setattr(project, "SYSTEM", tmp_path / "etc")
    monkeypatch.chdir(home)
    return home


def make(directory: Path, content: str = "", *, known: bool = True) -> Path:
    directory.mkdir(parents=True)
    (directory / project.FILE).write_text(content)
    if known:
        project.record_known(directory)
    return directory


def test_the_nearest_parent_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = make(tmp_path / "outer")
    inner = make(outer / "inner")
    (inner / "recipes").mkdir()
    monkeypatch.chdir(inner / "recipes")
    assert project.find() == inner
    monkeypatch.chdir(outer)
    assert project.find() == outer


def test_what_is_named_goes_before_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, named, other = (make(tmp_path / name, known=name == "here") for name in ("here", "named", "other"))
    monkeypatch.chdir(here)
    monkeypatch.setenv(project.VARIABLE, str(named))
    assert project.find() == named
    assert project.find(str(other)) == other
    assert project.find("../other") == other


def test_a_directory_that_this_user_did_not_make_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest can write such a file to a share, and its settings name commands."""
    share = make(tmp_path / "share", "on_failure: /bin/evil\n", known=False)
    (share / "data").mkdir()
    monkeypatch.chdir(share / "data")
    with pytest.raises(VirtrootError, match="that you did not make or use before"):
        project.find()
    assert project.find(str(share)) == share
    project.record_known(share)
    assert project.find() == share


def test_a_user_who_became_root_keeps_the_known_directories(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make(tmp_path / "own"))
    other = tmp_path / "root"
    other.mkdir()
    monkeypatch.setenv("HOME", str(other))
    with pytest.raises(VirtrootError, match="did not make"):
        project.find()
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_dir=str(home)))
    assert project.find() == tmp_path / "own"


def test_the_systems_directory_is_the_last_choice(tmp_path: Path) -> None:
    with pytest.raises(VirtrootError, match="no project directory"):
        project.find()
    system = make(tmp_path / "etc", known=False)
    assert project.find() == system


def test_a_checkout_is_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "is_checkout", lambda directory: directory == PROGRAM)
    assert project.find() == PROGRAM
    assert project.find(str(PROGRAM)) == PROGRAM
    monkeypatch.chdir(PROGRAM / "recipes")
    assert project.find() == PROGRAM


def test_a_directory_that_was_deleted_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(VirtrootError, match="no project directory"):
        project.find()


@pytest.mark.parametrize(
    ("named", "what"), [("nowhere", "No such file or directory"), ("file", "not a directory"), ("empty", "no virtroot")]
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_what_is_named_and_is_no_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, what: str, by_variable: bool
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / named)
    if by_variable:
        monkeypatch.setenv(project.VARIABLE, path)
    with pytest.raises(VirtrootError, match=what) as refused:
        project.find("" if by_variable else path)
    assert refused.value.what.startswith(f"{project.VARIABLE if by_variable else '-C'}: {path}")


def test_the_settings_are_what_the_file_has(tmp_path: Path) -> None:
    assert project.read_settings(tmp_path) == {}
    assert project.read_settings(make(tmp_path / "empty")) == {}
    assert project.read_settings(make(tmp_path / "a", "format: 1\nkeep: 3\npool: vms\n")) == {"keep": 3, "pool": "vms"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("keep: [", "cannot read"),
        ("- keep\n", "not a mapping"),
        ("text", "not a mapping"),
        ("format: 2\n", "format 2 is of a newer version"),
        ("format: true\n", "not a positive number"),
        ("format: 0\n", "not a positive number"),
        ("format: soon\n", "not a positive number"),
        ("\udcff", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: str, what: str) -> None:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / project.FILE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(VirtrootError, match=what) as refused:
        project.read_settings(directory)
    assert str(directory / project.FILE) in refused.value.what


def test_a_file_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / project.FILE).mkdir()
    with pytest.raises(VirtrootError, match=r"cannot read .*Is a directory"):
        project.read_settings(tmp_path)


def test_two_files_are_refused(tmp_path: Path) -> None:
    directory = make(tmp_path / "two")
    (directory / "virtroot.yml").touch()
    with pytest.raises(VirtrootError, match=r"has both virtroot\.yaml and virtroot\.yml"):
        project.find(str(directory))


def test_a_list_that_cannot_be_written_is_an_error(home: Path, tmp_path: Path) -> None:
    (home / ".local").write_text("a file")
    with pytest.raises(VirtrootError, match="Not a directory"):
        project.record_known(tmp_path)


def test_a_path_with_links_is_known_by_the_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "own", known=False)
    (tmp_path / "link").symlink_to("own")
    project.record_known(tmp_path / "link" / ".." / "link")
    monkeypatch.chdir(tmp_path / "link")
    assert project.find() == made


def test_a_known_directory_that_another_user_made_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "own")
    monkeypatch.chdir(made)
    assert project.find() == made
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr(Path, "lstat", lambda _: SimpleNamespace(st_uid=4712))
    with pytest.raises(VirtrootError, match="belongs to the user 4712"):
        project.find()
    assert project.find(str(made)) == made
    monkeypatch.setattr(Path, "lstat", lambda _: SimpleNamespace(st_uid=4711))
    assert project.find() == made


@pytest.mark.parametrize("content", ["[" * 100_000, "a: &a [x]\nb: *c\n"])
def test_a_hostile_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / project.FILE).write_text(content)
    with pytest.raises(VirtrootError, match="cannot read"):
        project.read_settings(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / project.FILE)
    with pytest.raises(VirtrootError, match=r"cannot read .*: Not a file"):
        project.read_settings(tmp_path)


def test_a_user_without_a_home_can_name_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "own")

    def refuse() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", refuse)
    assert project.find(str(made)) == made
    monkeypatch.chdir(made)
    with pytest.raises(VirtrootError, match="did not make or use before"):
        project.find()
