"""The parser of the command line: tasks, their options, and their positional arguments.

It replaces invoke's parser, which reads ``--help`` as a guest's name and ``--force=no`` as ``--force`` and a guest
called "no", has no optional positional arguments, and cannot complete a line that is not finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from typing import Protocol

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pipelines.errors import VirtrootError

#: Options whose value is two words, of which the first is one of these: ``--take old PATH``.
_PAIR_OPTIONS = {"take": ("old", "new")}


#: Tasks that change nothing, which alone are suggested for a wrong word.
HARMLESS = (
    "builds", "diff", "doctor", "help", "info", "list", "logs", "plan", "schema", "snapshots", "ssh-config", "status",
)  # fmt: skip

#: The words that may follow a task, and the task that each of them means.
SUBCOMMANDS = {
    "snapshot": {"create": "snapshot", "list": "snapshots", "ls": "snapshots", "restore": "restore",
                 "delete": "snapshots", "rm": "snapshots"},
}  # fmt: skip

#: The words of `SUBCOMMANDS` after which the second name is the value of an option.
SECOND_NAME = {"delete": "remove", "rm": "remove"}


#: The positional argument of tasks on guests, and the tasks that need no guest.
_NAMES, _WITHOUT_NAMES = "name", ("verify",)


#: Tasks whose optional argument may be the name of a task: topics, directories.
_TAKE_ANY_WORD = ("help", "init")


class Contexts(Protocol):
    """The tasks' contexts by name, see `registry.Contexts`."""

    def __getitem__(self, name: str, /) -> ParserContext:
        """Return the context of a task, also for one of its other names."""

    def __contains__(self, name: object, /) -> bool:
        """Return whether there is such a task."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the tasks, without their other names."""

    def takes_command(self, name: str) -> bool:
        """Return whether the task takes a command for a guest."""

    def make_subcommand(self, name: str, word: str) -> ParserContext:
        """Return the context of the task that ``word`` means after the task ``name``."""


class UnknownWord(VirtrootError):
    """A word that is neither a task nor a positional argument of one."""


class Line:
    """A command line, parsed up to some word.

    ``core`` has the options in front of the tasks, ``called`` the tasks in order, both with their values. ``option``
    is the option that takes the next word as its value, if any.
    """

    def __init__(self, core: ParserContext, tasks: Contexts) -> None:
        self.core = deepcopy(core)
        self.called: list[ParserContext] = []
        self.option: Argument | None = None
        self._tasks = tasks
        self._first = ""

    @property
    def context(self) -> ParserContext:
        """The last task, or ``core`` before the first task: the next option is one of its options."""
        return self.called[-1] if self.called else self.core

    @property
    def name(self) -> Argument | None:
        """The positional argument that the next word is a value of: the first without one, or a list."""
        return next(
            (each for each in self.context.positional_args if each.raw_value is None or each.kind is list), None
        )

    def begins_command(self, word: str) -> bool:
        """Return whether ``word`` is the first word of a command for a guest, as in ``exec web uname -r``."""
        if self.option or not self.called or word.startswith("-"):
            return False
        return self._tasks.takes_command(str(self.context.name)) and self.name is None

    def take(self, word: str) -> None:
        """Parse the next word.

        Raises VirtrootError for a word that does not fit; the line stays as it was without that word.
        """
        option, self.option = self.option, None
        if option and self.find(word):
            raise self._usage_error(f"{format_option(option)} needs a value")
        if option and not self._first and word in _PAIR_OPTIONS.get(option.names[0], ()):
            self._first, self.option = word, option
        elif option:
            first, self._first = self._first, ""
            self._set_value(option, f"{first}:{word}" if first else word)
        elif word.startswith("--"):
            self._take_long(word)
        elif word.startswith("-") and word != "-":
            self._take_short(word)
        else:
            self._take_plain(word)

    def finish(self) -> None:
        """Check that the line is complete. Raises VirtrootError for a missing value or argument."""
        if self.option:
            raise self._usage_error(f"{format_option(self.option)} needs a value")
        for task in self.called:
            for argument in task.positional_args:
                # --all stands for all names.
                stands_for_all = "all" in task.args and task.args["all"].value
                if _needs_value(argument) and not stands_for_all and task.name not in _WITHOUT_NAMES:
                    wanted = argument.names[0]
                    raise self._usage_error(f"{task.name} needs {'an' if wanted[0] in 'aeiou' else 'a'} {wanted}", task)

    def find(self, written: str) -> tuple[Argument, bool] | None:
        """Return the option that ``written`` names, and False for its ``--no-…`` form; None for an unknown one."""
        for context in (self.context, self.core):
            if written in context.flags:
                return context.flags[written], True
            if written in context.inverse_flags:
                return context.flags[context.inverse_flags[written]], False
        return None

    def _take_long(self, word: str) -> None:
        written, equals, value = word.partition("=")
        argument, turns_on = self._get_option(written)
        if argument.takes_value and equals:
            self._set_value(argument, value)
        elif argument.takes_value and not argument.optional:
            self.option = argument
        elif equals:
            raise self._usage_error(f"{written} takes no value")
        else:
            argument.set_value(turns_on, cast=False)

    def _take_short(self, word: str) -> None:
        """Parse short options; ``-fm2GiB`` means ``-f -m 2GiB``."""
        for place, letter in enumerate(word[1:], start=2):
            argument, turns_on = self._get_option(f"-{letter}")
            rest = word[place:]
            if argument.takes_value and rest:
                return self._set_value(argument, rest.removeprefix("="))
            if argument.takes_value and not argument.optional:
                self.option = argument
            elif rest.startswith("="):
                raise self._usage_error(f"-{letter} takes no value")
            else:
                argument.set_value(turns_on, cast=False)
        return None

    def _take_plain(self, word: str) -> None:
        name = self.name
        if self.called and not self._has_values and word in SUBCOMMANDS.get(str(self.context.name), ()):
            self.called[-1] = self._tasks.make_subcommand(str(self.context.name), word)
        # If the positional argument is optional or has a value, the name of a task starts that task. --name reaches a
        # guest that has the name of a task.
        elif name and (word not in self._tasks or _needs_value(name) or self.context.name in _TAKE_ANY_WORD):
            self._set_value(name, word)
        elif word in self._tasks:
            self.called.append(deepcopy(self._tasks[word]))
        elif self.called:
            raise UnknownWord(f"{self.context.name}: unexpected argument {word!r}", self._help_hint())
        else:
            # A wrong word must not lead to a task that changes something.
            near = get_close_matches(word, [each for each in self._tasks if each in HARMLESS], n=1)
            hint = f"run ./inv {near[0]}, or ./inv --list" if near else "run ./inv --list for the tasks"
            raise UnknownWord(f"unknown task {word!r}", hint)

    @property
    def _has_values(self) -> bool:
        return any(argument.raw_value for argument in self.context.args.values())

    def _get_option(self, written: str) -> tuple[Argument, bool]:
        found = self.find(written)
        if found is None:
            raise self._usage_error(f"{self.context.name or 'inv'}: unknown option {written!r}")
        return found

    def _set_value(self, argument: Argument, value: str) -> None:
        if argument.raw_value is not None and argument.kind is not list:
            raise self._usage_error(f"{format_option(argument)} was given twice: {argument.raw_value!r} and {value!r}")
        # A task cannot tell an empty value from an option that was not given.
        if not value:
            raise self._usage_error(f"{format_option(argument)} is empty")
        try:
            number = argument.kind(value) if argument.kind is int else 1
        except ValueError as error:
            raise self._usage_error(f"{format_option(argument)}: not an integer: {value!r}") from error
        # Every number is a count, and 0 means that the option was not given.
        if number < 1:
            raise self._usage_error(f"{format_option(argument)}: less than 1: {value!r}")
        argument.set_value(value)

    def _usage_error(self, what: str, task: ParserContext | None = None) -> VirtrootError:
        return VirtrootError(what, self._help_hint(task))

    def _help_hint(self, task: ParserContext | None = None) -> str:
        words = filter(None, ("./inv", (task or self.context).name, "--help"))
        return f"run {' '.join(words)} for its options"


def _needs_value(argument: Argument) -> bool:
    """Return whether a positional argument has no value yet, and needs one. Of lists, only names of guests do."""
    if argument.kind is list:
        return argument.names[0] == _NAMES and not argument.value
    return argument.raw_value is None and argument.default is None


def format_option(argument: Argument) -> str:
    """Return the option in its long form."""
    return f"--{argument.names[0]}"
