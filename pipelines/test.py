"""Checks: what must hold before a change lands, in one command."""

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
from pipelines.setup import need, setup

#: What takes long comes first: who ends early goes on with what is short.
_QUICK = ("tests/golden", "tests/unit")
_TESTS = ("tests/e2e", "tests/integration", *_QUICK)

#: Where the output directory has the tests' JUnit report; `tests/durations.py` reads it.
_REPORT = ".tests/junit.xml"
_COVERAGE = ".tests/coverage.json"

#: Each process that tests has a hypervisor of its own, and guests of 1 GiB.
_SIDE_BY_SIDE = 4


def test(settings: Settings, only: str, *, long: bool, changed: bool, base: str) -> int:
    """Run the checks that ``only`` names (``lint``, ``types``, or paths for pytest), or all; return the exit status.

    Tests that are marked as long run where they are named, or with ``long``. With ``changed`` those that take long run
    where what differs from ``base`` can reach them, see `selection`; lint, types, unit and golden tests run all.
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
        # Whoever uses virtroot has what they reach guests with; a bare machine of tests has not.
        need("ssh", "rsync", "ansible", "mkfs.btrfs", "mkfs.xfs")
        chosen_tests = paths or [*tests, *([] if long else ["-m", "not long"])]
        report = f"--junit-xml={settings.output_dir / _REPORT}"
        arguments = ["--durations=20", report, *_side_by_side(), *chosen_tests]
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
    arguments = [*branch_coverage.list_options(report), *_side_by_side(), *(paths or _QUICK)]
    say(f"running pytest {' '.join(arguments)}")
    env = {"COVERAGE_FILE": str(report.with_suffix(""))}
    status = process.attach([sys.executable, "-m", "pytest", *arguments], cwd=CHECKOUT, env=env)
    if status == 0:
        result(branch_coverage.describe(json.loads(report.read_text(encoding="utf-8"))))
    return status


def _side_by_side() -> list[str]:
    processes = min(len(os.sched_getaffinity(0)), _SIDE_BY_SIDE)
    # What tests of one file share, they make once: a file is tested by one process. They start in the order that
    # `tests/durations.py` gives them, longest first.
    return [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"]


@task(
    name="test",
    help={
        "only": "a part of the tests: lint, types or paths for pytest, comma-separated",
        "all": "those that take longest without KVM, too",
        "changed": "integration and end-to-end tests only where what changed can reach them",
        "base": "what changed is what differs from this commit; by default where the branch left origin's main one",
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
    """Set up everything and run lint, types and the tests.

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
        raise VirtrootError("--changed and --only or --all", "leave one out: --changed chooses by what changed")
    if base and not changed:
        raise VirtrootError("--base without --changed", "write ./inv test --changed --base COMMIT")
    if all and only:
        raise VirtrootError("--all and --only", "leave one out: tests that are named run, however long they take")
    sys.exit(test(settings_of(c), only, long=all, changed=changed, base=base))
