"""Runs command lines with tasks that only note their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from invoke.context import Context
from invoke.tasks import Task, task

import tasks
from pipelines.cli.program import Program
from pipelines.cli.registry import Registry

#: The names of all tasks.
TASKS = sorted(tasks.program.contexts)


def run_line(*words: str) -> dict[str, object]:
    """Run a command line with a task of each kind, and return the arguments of each task that ran."""
    called: dict[str, object] = {}

    @task
    def start(c: Context, name: str) -> None:
        """Boot."""
        called["start"] = (name, c.config.virtroot.connect)

    @task(iterable=["share"])
    def install(c: Context, name, distro="", vcpus=0, hostname="", force=False, share=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Install."""
        called["install"] = (name, distro, vcpus, hostname, force, share)

    @task(positional=["name"])
    def verify(c: Context, name="", distro="", boot=True):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Verify."""
        called["verify"] = (name, distro, boot)

    @task(name="exec")
    def execute(c: Context, name: str, command: Sequence[str] = ()) -> None:
        """Run."""
        called["exec"] = (name, " ".join(command))

    @task(positional=["artifact"])
    def pin(c: Context, artifact):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Keep."""
        called["pin"] = artifact

    known = {"start": start, "install": install, "verify": verify, "exec": execute, "pin": pin}
    Program(Registry(cast("dict[str, str | Task[Any]]", known)), {}).run(["inv", *words])
    return called
