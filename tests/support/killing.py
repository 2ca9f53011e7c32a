"""Kills what virtroot runs on libvirt's host before one of its steps, which is after the step before.

A step of a shell script is a command. A step of the payload, which is Python, is a change that it makes to files, or a
program that it starts.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.target.target import Local

# Counts what a script runs, and kills the script before the command of a number. It uses the shell's own
# commands alone, since any other one can be one that is replaced. What the test process runs itself is only run.
_SHIM = """#!/bin/sh
read -r parent < "/proc/$PPID/comm"
[ "$parent" = sh ] || exec {real} "$@"
read -r number < {count}
number=$((number + 1))
echo "$number" > {count}
[ "$number" != {before} ] || {{ kill -9 "$PPID"; exit; }}
exec {real} "$@"
"""

# Stands in place of Python, and runs the payload with an audit hook, which Python calls before each change of a file.
_PYTHON = """#!{python}
import atexit, os, runpy, signal, sys

CHANGES = {{"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "subprocess.Popen"}}

def step(name):
    # Not by open(), which calls the hook.
    handle = os.open("{count}", os.O_RDWR)
    number = int(os.read(handle, 20)) + 1
    os.lseek(handle, 0, 0)
    os.write(handle, b"%d" % number)
    os.close(handle)
    if number == {before}:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event in CHANGES or (event == "open" and arguments[0] != "{count}" and arguments[2] & os.O_CREAT):
        step(event)

path, *words = sys.argv[2:]
sys.argv = [path, *words]
sys.path.insert(0, path)
if words[0] in {commands}:
    atexit.register(step, "end")
    sys.addaudithook(hook)
from payload.__main__ import main
sys.exit(main(words))
"""

#: The commands of the payload that change several files. The others change one file, or none.
_CHANGING = ("publish", "withdraw", "undo-removal", "begin-swap", "finish-swap", "end-publication")


class Killing:
    """Runs a task again and again on the same files, and kills its script or program at one step after the other."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, hypervisor: Hypervisor, commands: Sequence[str]
    ) -> None:
        self._directory, self._monkeypatch, self._hypervisor = directory, monkeypatch, hypervisor
        self._commands = commands
        self._count = directory / "count"

    def times(self, files: Sequence[Path], task: Callable[[], object]) -> Iterator[str]:
        """Yield after each kill of ``task`` where that was. Before the next one, ``files`` are as they were."""
        kept = self._directory / "kept"
        for path in files:
            shutil.copytree(path, kept / path.name, symlinks=True)
        steps = self._run(task, 0)
        assert steps > len(self._commands) + 5, "the task ran less than it is killed at"
        for number in range(1, steps + 1):
            for path in files:
                shutil.rmtree(path)
                shutil.copytree(kept / path.name, path, symlinks=True)
            self._run(task, number)
            yield f"before step {number} of {steps}"

    def _run(self, task: Callable[[], object], before: int) -> int:
        self._count.write_text("0")
        shims = self._directory / "shims"
        shutil.rmtree(shims, ignore_errors=True)
        shims.mkdir()
        for command in self._commands:
            shim = shims / command
            real = shutil.which(command)
            shim.write_text(_SHIM.format(count=self._count, before=before, real=real))
            shim.chmod(0o755)
        filled = {"python": sys.executable, "count": self._count, "before": before, "commands": _CHANGING}
        python = self._directory / "python"
        python.write_text(_PYTHON.format(**filled))
        python.chmod(0o755)
        with self._monkeypatch.context() as patched, suppress(VirtrootError):
            patched.setenv("PATH", str(shims), prepend=":")
            patched.setattr(self._hypervisor, "target", Local(str(python)))
            task()
        return int(self._count.read_text())
