"""Run lint, types and tests, the checks for a change, with one command."""

from __future__ import annotations

import json
import os
import sys

from pipelines.checks import branch_coverage, lint, selection
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import result, say
from pipelines.settings import CHECKOUT, Settings
from pipelines.setup import ensure_programs, setup

#: Slow tests come first, so that processes that finish early continue with fast ones.
_QUICK = ("tests/golden", "tests/unit")
_TESTS = ("tests/e2e", "tests/integration", *_QUICK)

#: The tests' JUnit report in the output directory; `tests/durations.py` reads it.
_REPORT = ".tests/junit.xml"
_COVERAGE = ".tests/coverage.json"

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
    steps: list[tuple[str, list[str]]] = []
    if not chosen or "lint" in chosen:
        steps += lint.commands()
    if not chosen or "types" in chosen:
        steps.append(("mypy", [sys.executable, "-m", "mypy"]))
    if not chosen or paths:
        setup(settings)
        # Users of virtroot have programs to access guests; a new machine for tests may lack them.
        ensure_programs("ssh", "rsync", "ansible", "mkfs.btrfs", "mkfs.xfs")
        chosen_tests = paths or [*tests, *([] if long else ["-m", "not long"])]
        report = f"--junit-xml={settings.output_dir / _REPORT}"
        arguments = ["--durations=20", report, *_make_process_options(), *chosen_tests]
        steps.append((f"pytest {' '.join(arguments)}", [sys.executable, "-m", "pytest", *arguments]))
    for title, argv in steps:
        say(f"running {title}")
        status = process.attach(argv, cwd=CHECKOUT)
        if status:
            # codespell's own status is none of those that ./inv documents.
            return 1 if status == os.EX_DATAERR else status
    return 0


def measure_coverage(settings: Settings, paths: list[str]) -> int:
    """Run the unit and golden tests, or those of ``paths``, and print which branches they reach; return the status."""
    report = settings.output_dir / _COVERAGE
    report.parent.mkdir(parents=True, exist_ok=True)
    arguments = [*branch_coverage.list_options(report), *_make_process_options(), *(paths or _QUICK)]
    say(f"running pytest {' '.join(arguments)}")
    env = {"COVERAGE_FILE": str(report.with_suffix(""))}
    status = process.attach([sys.executable, "-m", "pytest", *arguments], cwd=CHECKOUT, env=env)
    if status == 0:
        result(branch_coverage.describe(json.loads(report.read_text(encoding="utf-8"))))
    return status


def _make_process_options() -> list[str]:
    processes = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
    # One process runs all tests of a file, so that they share their fixtures. Files start in the order of
    # `tests/durations.py`, the longest first.
    return [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"]


@task(
    name="test",
    help={
        "only": "run only these parts: lint, types or paths for pytest, separated by commas",
        "all": "also run the tests that take longest without KVM",
        "changed": "run only those integration and end-to-end tests that the changes can affect",
        "base": "the commit to find changes since; default: the merge base with origin's main branch",
        "coverage": "run only unit and golden tests, and print which branches of the code they reach",
    },
)
def test_task(
    c: Context,
    only: str = "",
    all: bool = False,  # noqa: A002 - the option
    changed: bool = False,
    base: str = "",
    coverage: bool = False,
) -> None:
    """Set up the machine, and run lint, types and the tests.

    ./inv test
    ./inv test --only lint,types,tests/unit
    ./inv test --changed
    ./inv test --coverage
    """
    if coverage:
        paths = [part for part in only.split(",") if part]
        if all or changed or base or [path for path in paths if not path.startswith(_QUICK)]:
            raise VirtrootError(
                "--coverage is about unit and golden tests", f"give it alone, or with --only {','.join(_QUICK)}"
            )
        sys.exit(measure_coverage(settings_of(c), paths))
    if changed and (only or all):
        raise VirtrootError("--changed excludes --only and --all", "omit one of them: --changed selects the tests")
    if base and not changed:
        raise VirtrootError("--base requires --changed", "run ./inv test --changed --base COMMIT")
    if all and only:
        raise VirtrootError("--all excludes --only", "omit one of them: --only runs long tests, too")
    sys.exit(test(settings_of(c), only, long=all, changed=changed, base=base))
