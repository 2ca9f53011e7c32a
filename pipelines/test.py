"""Run lint, types and tests, the checks for a change, with one command."""

from __future__ import annotations

import os
import sys

from pipelines.checks import selection
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import say
from pipelines.settings import CHECKOUT, Settings
from pipelines.setup import ensure_programs, setup

_LINT = (["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"])
_TYPES = (["-m", "mypy"],)

#: Slow tests come first, so that processes that finish early continue with fast ones.
_QUICK = ("tests/golden", "tests/unit")
_TESTS = ("tests/e2e", "tests/integration", *_QUICK)

#: The tests' JUnit report in the output directory; `tests/durations.py` reads it.
_REPORT = ".tests/junit.xml"

#: The maximum number of test processes. Each has its own hypervisor, and guests of 1 GiB.
_MAX_PROCESSES = 4


def test(settings: Settings, only: str, *, long: bool, changed: bool, base: str) -> int:
    """Run the checks in ``only`` (``lint``, ``types``, or paths for pytest), or all; return the exit status.

    Tests that are marked ``long`` run if their file is given, or with ``long``. With ``changed``, only those slow tests
    run that the changes since ``base`` can affect, see `selection`; lint, types, unit and golden tests run completely.
    """
    tests: tuple[str, ...] = _TESTS
    if changed:
        files = selection.choose(selection.changed_files(base))
        say(f"changed: {len(files)} files of integration and end-to-end tests, {' '.join(files)}".rstrip(", "))
        tests = (*files, *_QUICK)
    chosen = [part for part in only.split(",") if part]
    paths = [part for part in chosen if part not in {"lint", "types"}]
    steps: list[list[str]] = []
    if not chosen or "lint" in chosen:
        steps += _LINT
    if not chosen or "types" in chosen:
        steps += _TYPES
    if not chosen or paths:
        setup(settings)
        # Users of virtroot have programs to access guests; a new machine for tests may lack them.
        ensure_programs("ssh", "rsync", "ansible", "mkfs.btrfs", "mkfs.xfs")
        processes = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
        # One process runs all tests of a file, so that they share their fixtures. Files start in the order of
        # `tests/durations.py`, the longest first.
        parallel = [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"]
        chosen_tests = paths or [*tests, *([] if long else ["-m", "not long"])]
        report = f"--junit-xml={settings.output_dir / _REPORT}"
        steps.append(["-m", "pytest", "--durations=20", report, *parallel, *chosen_tests])
    for arguments in steps:
        say(f"running {' '.join(arguments[1:])}")
        status = process.attach([sys.executable, *arguments], cwd=CHECKOUT)
        if status:
            return status
    return 0


@task(
    name="test",
    help={
        "only": "run only these parts: lint, types or paths for pytest, separated by commas",
        "all": "also run the tests that take longest without KVM",
        "changed": "run only those integration and end-to-end tests that the changes can affect",
        "base": "the commit to find changes since; default: the merge base with origin's main branch",
    },
)
def test_task(
    c: Context,
    only: str = "",
    all: bool = False,  # noqa: A002 - the option
    changed: bool = False,
    base: str = "",
) -> None:
    """Set up the machine, and run lint, types and the tests.

    ./inv test
    ./inv test --only lint,types,tests/unit
    ./inv test --changed
    """
    if changed and (only or all):
        raise VirtrootError("--changed excludes --only and --all", "omit one of them: --changed selects the tests")
    if base and not changed:
        raise VirtrootError("--base requires --changed", "run ./inv test --changed --base COMMIT")
    if all and only:
        raise VirtrootError("--all excludes --only", "omit one of them: --only runs long tests, too")
    sys.exit(test(settings_of(c), only, long=all, changed=changed, base=base))
