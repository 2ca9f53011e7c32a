"""Release: set the version, date the changelog, commit and tag, all of it or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from pipelines.cli.task import Context, task
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import result, say
from pipelines.settings import CHECKOUT
from pipelines.text import split_lines, trim

#: The branch that releases are made on.
_BRANCH = "main"

_VERSION_FILE = "pipelines/__init__.py"
_CHANGELOG = "CHANGELOG.md"

#: A semantic version, without the parts for pre-releases and builds: virtroot has neither.
_VERSION = re.compile(r"(?:(?:0|[1-9][0-9]*)\.){2}(?:0|[1-9][0-9]*)")
_ASSIGNMENT = re.compile(r'(?m)^__version__ = "([0-9]+\.[0-9]+\.[0-9]+)"$')
_UNRELEASED = re.compile(r"(?ms)^## Unreleased\n(.*?)(?=^## |\Z)")


@dataclass(frozen=True)
class Release:
    """What a release will be: its version, its tag, and the new content of the files that name the version."""

    version: str
    tag: str
    files: dict[str, str]


def release(version: str, checkout: Path, today: date) -> Release:
    """Release ``version``: change the files, commit them and tag the commit; return what was released.

    Raises `VirtrootError` where `plan_release` does, and where git does not commit or tag. Then the branch and the two
    files are as they were.
    """
    planned = plan_release(version, checkout, today)
    before = _git(checkout, "rev-parse", "HEAD")
    with process.defer_interrupt():
        try:
            for name, content in planned.files.items():
                (checkout / name).write_text(content, encoding="utf-8")
            _git(checkout, "commit", "--quiet", f"--message=release: {version}", "--", *planned.files)
            _git(checkout, "tag", "--annotate", f"--message=virtroot {version}", planned.tag)
        except BaseException:
            _undo(planned, checkout, before)
            raise
    return planned


def _undo(planned: Release, checkout: Path, before: str) -> None:
    """Take back what there is of a release: the tag, the commit, the new content of the two files."""
    if _git(checkout, "tag", "--list", planned.tag):
        _git(checkout, "tag", "--delete", planned.tag)
    _git(checkout, "reset", "--quiet", "--soft", before)
    _git(checkout, "checkout", "--quiet", before, "--", *planned.files)


def plan_release(version: str, checkout: Path, today: date) -> Release:
    """Check that ``version`` can be released from ``checkout``, and return what that is; nothing is changed.

    Raises `VirtrootError` where the files differ from the last commit, the branch is not main, the version is not newer
    than the current one or is tagged already, or the changelog has nothing that is unreleased.
    """
    changed = _git(checkout, "status", "--porcelain")
    if changed:
        raise VirtrootError("the checkout has changes that are not committed", "commit or stash them", changed)
    branch = _git(checkout, "branch", "--show-current")
    if branch != _BRANCH:
        raise VirtrootError(f"not on the branch {_BRANCH}: {branch or 'no branch'}", f"run git switch {_BRANCH}")
    code = (checkout / _VERSION_FILE).read_text(encoding="utf-8")
    _check_version(version, _current_version(code))
    tag = f"v{version}"
    if _git(checkout, "tag", "--list", tag):
        raise VirtrootError(f"tag {tag} exists", "name a newer version")
    changelog = (checkout / _CHANGELOG).read_text(encoding="utf-8")
    files = {
        _VERSION_FILE: _ASSIGNMENT.sub(f'__version__ = "{version}"', code),
        _CHANGELOG: date_changelog(changelog, version, today),
    }
    return Release(version, tag, files)


def date_changelog(text: str, version: str, today: date) -> str:
    """Return a changelog whose unreleased changes are those of ``version``, below a new heading without text."""
    found = _UNRELEASED.search(text)
    if not found:
        raise VirtrootError(f"{_CHANGELOG}: no heading '## Unreleased'", "add it above the last release")
    if not [line for line in split_lines(found[1]) if trim(line) and not line.startswith("#")]:
        raise VirtrootError(f"{_CHANGELOG}: nothing below '## Unreleased'", "write what changed for users")
    return f"{text[: found.start()]}## Unreleased\n\n## {version} - {today.isoformat()}\n{text[found.start(1) :]}"


def _current_version(code: str) -> str:
    found = _ASSIGNMENT.findall(code)
    if len(found) != 1:
        raise VirtrootError(f"{_VERSION_FILE}: no line that sets __version__", "see git log -p for the line it had")
    return str(found[0])


def _check_version(version: str, current: str) -> None:
    if not _VERSION.fullmatch(version):
        raise VirtrootError(f"invalid version '{version}'", "write three numbers, like 0.2.0")
    if _numbers(version) <= _numbers(current):
        raise VirtrootError(f"version {version} is not newer than {current}", "name a newer version")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _git(checkout: Path, *arguments: str) -> str:
    """Run git in ``checkout`` and return its output; raises `VirtrootError` where it fails."""
    return process.run(["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", *arguments]).text


@task(
    name="release",
    positional=["version"],
    help={"version": "the new version, like 0.2.0", "preview": "check whether it can be released, and change nothing"},
)
def release_task(
    c: Context,
    version: str,
    preview: bool = False,
) -> None:
    """Release what the changelog has below "Unreleased": commit the version and the date, and tag the commit.

    ./inv release 0.2.0 --preview
    ./inv release 0.2.0
    """
    today = datetime.now(UTC).date()
    if preview:
        planned = plan_release(version, CHECKOUT, today)
        say(f"would change {' and '.join(planned.files)}, commit them, and tag the commit {planned.tag}")
        return
    released = release(version, CHECKOUT, today)
    say(f"committed and tagged; publish them with git push origin {_BRANCH} {released.tag}")
    result(released.tag)
