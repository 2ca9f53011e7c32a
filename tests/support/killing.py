"""Kills a script of virtroot's before or after one of the commands that it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError

# Counts what a script runs, and kills the script, before or after the command of a number. It uses the shell's own
# commands alone: any other one might be one that is replaced, too. What the test process runs by itself is only run.
_SHIM = """#!/bin/sh
read -r parent < "/proc/$PPID/comm"
[ "$parent" = sh ] || exec {real} "$@"
read -r number < {count}
number=$((number + 1))
echo "$number" > {count}
[ "$number" != {before} ] || {{ kill -9 "$PPID"; exit; }}
{real} "$@"
status=$?
[ "$number" != {after} ] || kill -9 "$PPID"
exit "$status"
"""


class Killing:
    """Runs a task again and again, on the same files, and kills its script at one command after the other."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, commands: Sequence[str]) -> None:
        self._directory, self._monkeypatch, self._commands = directory, monkeypatch, commands
        self._count = directory / "count"

    def times(self, files: Sequence[Path], task: Callable[[], object]) -> Iterator[str]:
        """Yield after each kill of ``task`` where that was; what is in ``files`` is as it was before the next one."""
        kept = self._directory / "kept"
        for path in files:
            shutil.copytree(path, kept / path.name, symlinks=True)
        steps = self._run(task, 0, 0)
        assert steps > len(self._commands), "the task ran less than it is killed at"
        for number in range(1, steps + 1):
            for before, after in ((number, 0), (0, number)):
                for path in files:
                    shutil.rmtree(path)
                    shutil.copytree(kept / path.name, path, symlinks=True)
                self._run(task, before, after)
                yield f"{'before' if before else 'after'} command {number} of {steps}"

    def _run(self, task: Callable[[], object], before: int, after: int) -> int:
        self._count.write_text("0")
        shims = self._directory / "shims"
        shutil.rmtree(shims, ignore_errors=True)
        shims.mkdir()
        for command in self._commands:
            shim = shims / command
            real = shutil.which(command)
            shim.write_text(_SHIM.format(count=self._count, before=before, after=after, real=real))
            shim.chmod(0o755)
        with self._monkeypatch.context() as patched, suppress(VirtrootError):
            patched.setenv("PATH", str(shims), prepend=":")
            task()
        return int(self._count.read_text())
