"""The parser of the command line: tasks, their options, and their positional arguments.

It replaces invoke's parser, which reads ``--help`` as a guest's name and ``--force=no`` as ``--force`` and a guest
called "no", has no optional positional arguments, and cannot complete a line that is not finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pipelines.errors import VirtrootError

#: Options whose value is two words, of which the first is one of these: ``--take old PATH``.
_PAIR_OPTIONS = {"take": ("old", "new")}


class UnknownWord(VirtrootError):
    """A word that is neither a task nor a positional argument of one."""


class Line:
    """A command line, parsed up to some word.

    ``core`` has the options in front of the tasks, ``called`` the tasks in order, both with their values. ``option``
    is the option that takes the next word as its value, if any.
    """

    def __init__(self, core: ParserContext, tasks: Mapping[str, ParserContext]) -> None:
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
        """The first positional argument of the task that has no value yet."""
        return next((each for each in self.context.positional_args if each.raw_value is None), None)

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
                if argument.value is None:
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
        # If the positional argument is optional, the name of a task starts that task. --name reaches a guest that has
        # the name of a task.
        if name and (name.default is None or word not in self._tasks):
            self._set_value(name, word)
        elif word in self._tasks:
            self.called.append(deepcopy(self._tasks[word]))
        elif self.called:
            raise UnknownWord(f"{self.context.name}: unexpected argument {word!r}", self._help_hint())
        else:
            near = get_close_matches(word, self._tasks, n=1)
            hint = f"run ./inv {near[0]}, or ./inv --list" if near else "run ./inv --list for the tasks"
            raise UnknownWord(f"unknown task {word!r}", hint)

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


def format_option(argument: Argument) -> str:
    """Return the option in its long form."""
    return f"--{argument.names[0]}"
