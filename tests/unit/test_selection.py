"""Which tests that take long a change can reach."""

from __future__ import annotations

import pytest

from pipelines.checks import import_graph, selection
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT

EVERYTHING = {
    str(path.relative_to(CHECKOUT))
    for directory in ("tests/integration", "tests/e2e")
    for path in (CHECKOUT / directory).glob("test_*.py")
}


@pytest.mark.parametrize(
    ("changed", "reached", "not_reached"),
    [
        # By a task that the test runs, directly or by a module in between.
        ("pipelines/rollback.py", "tests/e2e/test_upgrade.py", "tests/e2e/test_import.py"),
        ("pipelines/origin/disk.py", "tests/e2e/test_import.py", "tests/e2e/test_run.py"),
        ("pipelines/guest/command_stream.py", "tests/e2e/test_run.py", "tests/integration/test_site.py"),
        # By a fixture that runs one.
        ("pipelines/builder/packing.py", "tests/e2e/test_run.py", "tests/integration/test_site.py"),
        # By an import.
        ("pipelines/night/report/plot.py", "tests/integration/test_pages.py", "tests/e2e/test_run.py"),
        ("tests/mirror/__init__.py", "tests/e2e/test_arch.py", "tests/e2e/test_run.py"),
        # By the suite that a task runs in a process of its own.
        ("tests/acceptance/gather.sh", "tests/e2e/test_golden_root.py", "tests/e2e/test_run.py"),
        # Data counts as its package, a page as what reads it.
        ("pipelines/night/report/style.css", "tests/integration/test_pages.py", "tests/e2e/test_run.py"),
        ("docs/guests.md", "tests/e2e/test_book.py", "tests/e2e/test_run.py"),
        # A module that is gone.
        ("pipelines/night/report/gone.py", "tests/integration/test_pages.py", "tests/e2e/test_run.py"),
    ],
)
def test_a_change_runs_what_it_can_reach(changed: str, reached: str, not_reached: str) -> None:
    chosen = selection.choose([changed])
    assert reached in chosen
    assert not_reached not in chosen


@pytest.mark.parametrize(
    "changed", ["tasks.py", "tests/conftest.py", "pipelines/errors.py", "requirements.lock", "a file that is new"]
)
def test_what_all_of_them_need_runs_all_of_them(changed: str) -> None:
    assert set(selection.choose([changed])) == EVERYTHING


def test_a_test_that_changed_runs_and_words_about_the_project_run_none() -> None:
    assert selection.choose(["tests/e2e/test_run.py"]) == ["tests/e2e/test_run.py"]
    assert selection.choose(["README.md", "CHANGELOG.md", "tests/unit/test_text.py", "benchmarks/boot.py"]) == []
    assert selection.choose([]) == []


def test_files_that_are_named_here_are_there() -> None:
    for path in (*selection._EVERYWHERE, *selection._NOWHERE, *selection._READ_BY):
        assert (CHECKOUT / path).exists(), path
    assert {test for tests in selection._READ_BY.values() for test in tests} <= EVERYTHING
    conftest = (CHECKOUT / "tests" / "conftest.py").read_text()
    for fixture in selection._FIXTURES:
        assert f"def {fixture}(" in conftest
    assert set(selection._ALWAYS_LOADED) <= import_graph.build_graph("pipelines").keys()


def test_a_base_that_is_no_commit_is_an_error() -> None:
    with pytest.raises(VirtrootError, match="no commit no-such-branch"):
        selection.changed_files("no-such-branch")
    assert all(isinstance(path, str) for path in selection.changed_files("HEAD"))
