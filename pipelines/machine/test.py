"""Checks: what must hold before a change lands, in one command."""

from __future__ import annotations

import os
import sys

from pipelines.host import process
from pipelines.log import say
from pipelines.machine.setup import need, setup
from pipelines.settings import CHECKOUT, Settings

_LINT = (["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"])
_TYPES = (["-m", "mypy"],)

#: What takes long comes first: who ends early goes on with what is short.
_TESTS = ("tests/e2e", "tests/integration", "tests/golden", "tests/unit")

#: Each process that tests has a hypervisor of its own, and guests of 1 GiB.
_SIDE_BY_SIDE = 4


def test(settings: Settings, only: str, *, long: bool) -> int:
    """Run the checks that ``only`` names (``lint``, ``types``, or paths for pytest), or all; return the exit status.

    Tests that are marked as long run where they are named, or with ``long``.
    """
    chosen = [part for part in only.split(",") if part]
    paths = [part for part in chosen if part not in {"lint", "types"}]
    steps: list[list[str]] = []
    if not chosen or "lint" in chosen:
        steps += _LINT
    if not chosen or "types" in chosen:
        steps += _TYPES
    if not chosen or paths:
        setup(settings)
        # Whoever uses virtroot has what they reach guests with; a bare machine of tests has not.
        need("ssh", "rsync", "ansible", "mkfs.btrfs", "mkfs.xfs")
        processes = min(len(os.sched_getaffinity(0)), _SIDE_BY_SIDE)
        # What tests of one file share, they make once: a file is tested by one process.
        beside = [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"]
        chosen_tests = paths or [*_TESTS, *([] if long else ["-m", "not long"])]
        steps.append(["-m", "pytest", "--durations=20", *beside, *chosen_tests])
    for arguments in steps:
        say(f"running {' '.join(arguments[1:])}")
        status = process.attach([sys.executable, *arguments], cwd=CHECKOUT)
        if status:
            return status
    return 0
