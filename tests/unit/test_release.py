"""Releases: what is refused, what is committed and tagged, and that a failure leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

import tasks
from pipelines import release as releases
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT

TODAY = date(2026, 3, 4)

CHANGELOG = """# Changelog

## Unreleased

### Added

- A thing.

## 0.9.0 - 2026-01-02

- The first.
"""

RELEASED = """# Changelog

## Unreleased

## 0.10.0 - 2026-03-04

### Added

- A thing.

## 0.9.0 - 2026-01-02

- The first.
"""


def git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


def commit(checkout: Path, name: str, content: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text(content)
    git(checkout, "add", name)
    git(checkout, "commit", "--quiet", "--message", f"write {name}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("repository")
    git(made, "init", "--quiet", "--initial-branch=main")
    git(made, "config", "user.name", "A Maintainer")
    git(made, "config", "user.email", "maintainer@example.invalid")
    commit(made, "pipelines/__init__.py", '"""A package."""\n\n__version__ = "0.9.0"\n')
    commit(made, "CHANGELOG.md", CHANGELOG)
    return made


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(repository, tmp_path / "checkout", symlinks=True)


def state(checkout: Path) -> tuple[str, ...]:
    """Return all that a release can change, and whether files differ from the commit."""
    files = [(checkout / name).read_text() for name in ("pipelines/__init__.py", "CHANGELOG.md")]
    return (
        *files,
        git(checkout, "rev-parse", "HEAD"),
        git(checkout, "branch", "--show-current"),
        git(checkout, "tag", "--list"),
        git(checkout, "status", "--porcelain"),
    )


def add_hook(checkout: Path, name: str, script: str) -> None:
    hook = checkout / ".git" / "hooks" / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


def test_a_release_is_a_commit_of_two_files_with_an_annotated_tag(checkout: Path) -> None:
    before = git(checkout, "rev-parse", "HEAD")
    assert releases.release("0.10.0", checkout, TODAY).tag == "v0.10.0"
    assert (checkout / "CHANGELOG.md").read_text() == RELEASED
    assert (checkout / "pipelines/__init__.py").read_text() == '"""A package."""\n\n__version__ = "0.10.0"\n'
    assert git(checkout, "log", "--format=%s", f"{before}..") == "release: 0.10.0"
    assert git(checkout, "diff", "--name-only", before).splitlines() == ["CHANGELOG.md", "pipelines/__init__.py"]
    assert git(checkout, "cat-file", "-t", "v0.10.0") == "tag"
    assert git(checkout, "rev-parse", "v0.10.0^{commit}") == git(checkout, "rev-parse", "HEAD")
    assert git(checkout, "status", "--porcelain") == ""


def test_a_plan_changes_nothing(checkout: Path) -> None:
    before = state(checkout)
    planned = releases.plan_release("0.10.0", checkout, TODAY)
    assert planned.files["CHANGELOG.md"] == RELEASED
    assert state(checkout) == before


def test_a_second_release_needs_changes_of_its_own(checkout: Path) -> None:
    releases.release("0.10.0", checkout, TODAY)
    before = state(checkout)
    with pytest.raises(VirtrootError, match="nothing below '## Unreleased'"):
        releases.release("0.11.0", checkout, TODAY)
    assert state(checkout) == before


@pytest.mark.parametrize(
    ("version", "what"),
    [
        ("0.9.0", "version 0.9.0 is not newer than 0.9.0"),
        ("0.8.12", "version 0.8.12 is not newer than 0.9.0"),
        ("v0.10.0", "invalid version 'v0.10.0'"),
        ("0.10", "invalid version '0.10'"),
        ("0.010.0", "invalid version '0.010.0'"),
        ("0.10.0-rc.1", "invalid version '0.10.0-rc.1'"),
        ("0.10.0\n", "invalid version '0.10.0\n'"),
        ("0.١٠.0", "invalid version '0.١٠.0'"),
        ("", "invalid version ''"),
    ],
)
def test_a_version_that_is_not_newer_is_refused(checkout: Path, version: str, what: str) -> None:
    before = state(checkout)
    with pytest.raises(VirtrootError) as refused:
        releases.release(version, checkout, TODAY)
    assert (refused.value.what, refused.value.exit_code) == (what, 2)
    assert refused.value.hint
    assert state(checkout) == before


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new"])
def test_changes_that_are_not_committed_are_refused(checkout: Path, name: str) -> None:
    (checkout / name).write_text(f"{CHANGELOG}\nmore\n")
    before = state(checkout)
    with pytest.raises(VirtrootError, match="changes that are not committed") as refused:
        releases.release("0.10.0", checkout, TODAY)
    assert name in refused.value.detail
    assert state(checkout) == before


@pytest.mark.parametrize(
    ("switch", "what"), [(["topic"], "not on the branch main: topic"), (["--detach"], "not on the branch main: no ")]
)
def test_another_branch_is_refused(checkout: Path, switch: list[str], what: str) -> None:
    git(checkout, "branch", "topic")
    git(checkout, "switch", "--quiet", *switch)
    before = state(checkout)
    with pytest.raises(VirtrootError, match=what):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before


def test_a_tag_that_exists_is_refused_and_kept(checkout: Path) -> None:
    git(checkout, "tag", "v0.10.0")
    before = state(checkout)
    with pytest.raises(VirtrootError, match=r"tag v0\.10\.0 exists"):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before


@pytest.mark.parametrize(
    ("changelog", "what"),
    [
        (CHANGELOG.replace("## Unreleased\n", ""), "no heading '## Unreleased'"),
        (CHANGELOG.replace("\n- A thing.\n", ""), "nothing below '## Unreleased'"),
        ("# Changelog\n\n## Unreleased\n", "nothing below '## Unreleased'"),
    ],
)
def test_a_changelog_without_changes_is_refused(checkout: Path, changelog: str, what: str) -> None:
    commit(checkout, "CHANGELOG.md", changelog)
    before = state(checkout)
    with pytest.raises(VirtrootError, match=what):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before


def test_a_commit_that_a_hook_refuses_is_taken_back(checkout: Path) -> None:
    add_hook(checkout, "pre-commit", "echo not today >&2; exit 1")
    before = state(checkout)
    with pytest.raises(VirtrootError, match="not today"):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before


def test_a_tag_that_git_refuses_takes_the_commit_back(checkout: Path) -> None:
    # It refuses the reference of the tag, after the commit.
    add_hook(checkout, "reference-transaction", '[ "$1" != prepared ] || ! grep -q "refs/tags/v0.10.0"')
    before = state(checkout)
    with pytest.raises(VirtrootError):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before
    assert git(checkout, "reflog", "--format=%gs").splitlines()[1] == "commit: release: 0.10.0"


def test_a_failure_after_the_tag_takes_the_tag_back(checkout: Path) -> None:
    # Kills the git that made the tag; of a new tag the object before is zeros, of a deleted one both may be.
    made = 'grep -q "^0* [0-9a-f]*[1-9a-f][0-9a-f]* refs/tags/"'
    add_hook(checkout, "reference-transaction", f'[ "$1" != committed ] || ! {made} || kill -9 "$PPID"')
    before = state(checkout)
    with pytest.raises(VirtrootError):
        releases.release("0.10.0", checkout, TODAY)
    assert state(checkout) == before


def test_the_changelog_and_the_version_are_as_a_release_needs_them() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = releases.date_changelog(text.replace("## Unreleased\n", "## Unreleased\n\n- A change.\n"), "99.0.0", TODAY)
    assert "\n## Unreleased\n\n## 99.0.0 - 2026-03-04\n" in dated
    assert releases._current_version((CHECKOUT / "pipelines" / "__init__.py").read_text(encoding="utf-8"))


def test_the_task_checks_the_checkout(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    assert tasks.registry["release"]  # imports the module
    monkeypatch.setattr(releases, "CHECKOUT", checkout)
    before = state(checkout)
    tasks.program.run(["inv", "release", "0.10.0", "--preview"])
    assert state(checkout) == before
    with pytest.raises(VirtrootError, match=r"0\.1\.0 is not newer than 0\.9\.0"):
        tasks.program.run(["inv", "release", "0.1.0"])
    tasks.program.run(["inv", "release", "0.10.0"])
    assert git(checkout, "tag", "--list") == "v0.10.0"
