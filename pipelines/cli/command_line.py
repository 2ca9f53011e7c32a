"""A command line, read word by word: its tasks, their options, and the name that a task takes without an option.

invoke has a parser, but that one takes ``--help`` for a guest's name, ``--force=no`` for ``--force`` and a guest
called "no", knows no name that may be left out, and cannot say where a half-typed line has come to.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pipelines.errors import VirtrootError

#: Options whose value is one of these words and another word: ``--take old PATH``.
_PAIRS = {"take": ("old", "new")}


class Unknown(VirtrootError):
    """A word that is neither a task nor the name that a task takes."""


class Line:
    """A command line as far as it was read.

    ``core`` has the options that belong to no task, ``called`` the tasks in order, both with their values; ``option``
    is the one whose value the next word is, if any.
    """

    def __init__(self, core: ParserContext, tasks: Mapping[str, ParserContext]) -> None:
        self.core = deepcopy(core)
        self.called: list[ParserContext] = []
        self.option: Argument | None = None
        self._tasks = tasks
        self._first = ""

    @property
    def context(self) -> ParserContext:
        """Whose options come next: the last task's, or before any task ``core``."""
        return self.called[-1] if self.called else self.core

    @property
    def name(self) -> Argument | None:
        """What the next word is taken for when it is no option: an argument of the task that has no value yet."""
        return next((each for each in self.context.positional_args if each.raw_value is None), None)

    def take(self, word: str) -> None:
        """Read the next word; one that fits nowhere is refused with `VirtrootError`, and counts as not there."""
        option, self.option = self.option, None
        if option and self.find(word):
            raise self._misuse(f"{flag(option)} needs a value")
        if option and not self._first and word in _PAIRS.get(option.names[0], ()):
            self._first, self.option = word, option
        elif option:
            first, self._first = self._first, ""
            self._set(option, f"{first}:{word}" if first else word)
        elif word.startswith("--"):
            self._take_long(word)
        elif word.startswith("-") and word != "-":
            self._take_short(word)
        else:
            self._take_bare(word)

    def finish(self) -> None:
        """Refuse a line that ends too early."""
        if self.option:
            raise self._misuse(f"{flag(self.option)} needs a value")
        for task in self.called:
            for argument in task.positional_args:
                if argument.value is None:
                    wanted = argument.names[0]
                    raise self._misuse(f"{task.name} needs {'an' if wanted[0] in 'aeiou' else 'a'} {wanted}", task)

    def find(self, written: str) -> tuple[Argument, bool] | None:
        """Return the option that is written so, and whether that turns it on or (``--no-…``) off."""
        for context in (self.context, self.core):
            if written in context.flags:
                return context.flags[written], True
            if written in context.inverse_flags:
                return context.flags[context.inverse_flags[written]], False
        return None

    def _take_long(self, word: str) -> None:
        written, equals, value = word.partition("=")
        argument, turns_on = self._found(written)
        if argument.takes_value and equals:
            self._set(argument, value)
        elif argument.takes_value and not argument.optional:
            self.option = argument
        elif equals:
            raise self._misuse(f"{written} takes no value")
        else:
            argument.set_value(turns_on, cast=False)

    def _take_short(self, word: str) -> None:
        """Read ``-f``, and ``-fm2GiB`` as ``-f -m 2GiB``."""
        for place, letter in enumerate(word[1:], start=2):
            argument, turns_on = self._found(f"-{letter}")
            rest = word[place:]
            if argument.takes_value and rest:
                return self._set(argument, rest.removeprefix("="))
            if argument.takes_value and not argument.optional:
                self.option = argument
            elif rest.startswith("="):
                raise self._misuse(f"-{letter} takes no value")
            else:
                argument.set_value(turns_on, cast=False)
        return None

    def _take_bare(self, word: str) -> None:
        name = self.name
        # Where the name may be left out, a task's name begins that task; a guest called so is reached by --name.
        if name and (name.default is None or word not in self._tasks):
            self._set(name, word)
        elif word in self._tasks:
            self.called.append(deepcopy(self._tasks[word]))
        elif self.called:
            raise Unknown(f"{self.context.name} has no place for {word!r}, and no task is called so", self._help())
        else:
            near = get_close_matches(word, self._tasks, n=1)
            hint = f"./inv {near[0]}; or ./inv --list" if near else "./inv --list shows the tasks"
            raise Unknown(f"no task {word!r}", hint)

    def _found(self, written: str) -> tuple[Argument, bool]:
        found = self.find(written)
        if found is None:
            raise self._misuse(f"{self.context.name or 'inv'} has no option {written!r}")
        return found

    def _set(self, argument: Argument, value: str) -> None:
        if argument.raw_value is not None and argument.kind is not list:
            raise self._misuse(f"{flag(argument)} is given twice: {argument.raw_value!r} and {value!r}")
        # To a task an empty value would look like one that was not given.
        if not value:
            raise self._misuse(f"{flag(argument)} is empty")
        try:
            number = argument.kind(value) if argument.kind is int else 1
        except ValueError as error:
            raise self._misuse(f"{flag(argument)}: {value!r} is no whole number") from error
        # All of them count something, and 0 stands for one that was not given.
        if number < 1:
            raise self._misuse(f"{flag(argument)}: {value!r} is less than 1")
        argument.set_value(value)

    def _misuse(self, what: str, task: ParserContext | None = None) -> VirtrootError:
        return VirtrootError(what, self._help(task))

    def _help(self, task: ParserContext | None = None) -> str:
        words = filter(None, ("./inv", (task or self.context).name, "--help"))
        return f"{' '.join(words)} shows what there is"


def flag(argument: Argument) -> str:
    """Return the option as it is written in full."""
    return f"--{argument.names[0]}"
