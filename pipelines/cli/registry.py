"""The tasks by name. The module of a task is imported when the task is first looked up."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from invoke.collection import Collection
from invoke.parser.context import ParserContext
from invoke.tasks import Task

from pipelines import lazy
from pipelines.cli.command_line import SECOND_NAME, SUBCOMMANDS
from pipelines.project import PROGRAM

with lazy.imports():
    from pipelines import settings

#: The parameter of a task that takes the command after two dashes. It is not an option.
COMMAND = "command"


#: The options with a short form; a letter means the same in every task.
SHORT = {
    "all": "a",
    "distro": "d",
    "dry-run": "n",
    "follow": "f",
    "force": "F",
    "json": "j",
    "memory": "m",
    "preview": "p",
    "recipe": "r",
    "user": "u",
    "yes": "y",
}


def function_name(task: str) -> str:
    """Return the name of the function that implements ``task``."""
    return f"{task.replace('-', '_')}_task"


@cache
def _docstrings(module: str) -> dict[str, str | None]:
    """Return the docstrings of a module's functions, by function name."""
    source = (PROGRAM / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_docstring(function) for function in functions}


def _first_line(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").partition("\n")[0]


class Registry(Mapping[str, "Task[Any]"]):
    """Maps the name of a task to the task.

    ``known`` maps the name to the task itself, or to the module with the function NAME_task. ``aliases`` maps other
    names of tasks, which are not listed, to the name.
    """

    def __init__(self, known: Mapping[str, str | Task[Any]], aliases: Mapping[str, str] | None = None) -> None:
        self._known = known
        self.aliases = dict(aliases or {})

    def __getitem__(self, name: str) -> Task[Any]:
        name = self.aliases.get(name, name)
        found = self._known[name]
        if isinstance(found, str):
            found = getattr(importlib.import_module(found), function_name(name))
        assert isinstance(found, Task)  # noqa: S101 - a bug, which a test finds
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def collection(self, *names: str) -> Collection:
        """Return invoke's collection of the tasks ``names``, or of all tasks."""
        found = Collection(*(self[name] for name in names or self))
        found.configure({"virtroot": settings.list_defaults()})
        return found

    def summary(self, name: str) -> str:
        """Return the first line of the task's docstring without importing its module: importing all of them is slow."""
        module = self._known[name]
        if not isinstance(module, str):
            return _first_line(module.__doc__)
        return _first_line(_docstrings(module).get(function_name(name)))


class Contexts(Mapping[str, ParserContext]):
    """Maps the name of a task to its context for invoke's parser."""

    def __init__(self, tasks: Registry) -> None:
        self._tasks = tasks
        self._context = cache(self._make_context)

    def __getitem__(self, name: str) -> ParserContext:
        if name not in self._tasks:
            raise KeyError(name)
        return self._context(self._tasks.aliases.get(name, name))

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def takes_command(self, name: str) -> bool:
        """Return whether the task takes a command for a guest."""
        return COMMAND in inspect.signature(self._tasks[name].body).parameters

    def make_subcommand(self, name: str, word: str) -> ParserContext:
        """Return the context of the task that ``word`` means after the task ``name``, see `SUBCOMMANDS`."""
        context = deepcopy(self[SUBCOMMANDS[name][word]])
        if word in SECOND_NAME:
            context.positional_args.append(context.args[SECOND_NAME[word]])
        return context

    def _make_context(self, name: str) -> ParserContext:
        (context,) = self._tasks.collection(name).to_contexts()
        arguments = [each for each in context.args.values() if each.name != COMMAND]
        for argument in arguments:
            # invoke gives every option the first free letter of its name, so that a letter has a meaning in each task.
            short = SHORT.get(argument.names[0])
            argument.names = (argument.names[0], short) if short else argument.names[:1]
        return ParserContext(context.name, context.aliases, arguments)
