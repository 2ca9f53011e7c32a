"""The tasks as a collection for plain invoke, and for the tasks.py of a user."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.tasks import Task

from pipelines import invocation, settings
from pipelines import project as projects
from pipelines.cli.registry import COMMAND, Registry
from pipelines.errors import VirtrootError


def make_collection(tasks: Registry) -> Collection:
    """Return a collection of all tasks, whose errors are invoke's `Exit`.

    The settings are those of the project directory that is found from here; invoke's own files and the environment
    replace them.
    """
    try:
        directory = projects.find()
        found = {**settings.list_defaults(directory), **projects.read_settings(directory)}
    except VirtrootError as error:
        raise _make_exit(error) from error
    collection = Collection(*(_wrap(tasks[name]) for name in tasks))
    collection.configure({"virtroot": found})
    return collection


def _wrap(task: Task[Any]) -> Task[Any]:
    """Return a task that raises `Exit` where ``task`` raises `VirtrootError`.

    invoke has no arguments for a command after two dashes, so the task takes it from the command line.
    """
    body: Callable[..., Any] = task.body
    signature = inspect.signature(body)
    takes_command = COMMAND in signature.parameters

    @functools.wraps(body)
    def run(*arguments: Any, **options: Any) -> Any:
        if takes_command:
            options[COMMAND] = _get_command()
        try:
            return body(*arguments, **options)
        except VirtrootError as error:
            raise _make_exit(error) from error

    shown = [each for name, each in signature.parameters.items() if name != COMMAND]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined] # inspect reads it
    return Task(
        run,
        name=task.name,
        positional=tuple(task.positional),
        iterable=list(task.iterable),
        help={name: text for name, text in task.help.items() if name != COMMAND},
        auto_shortflags=False,
    )


def _get_command() -> list[str]:
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def _make_exit(error: VirtrootError) -> Exit:
    return Exit(invocation.replace_name(str(error)), code=error.exit_code)
