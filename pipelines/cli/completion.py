"""Shell completion: what the shell offers for an unfinished command line."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.parser.argument import Argument

from pipelines import invocation
from pipelines.cli.command_line import Line, format_option
from pipelines.errors import VirtrootError
from pipelines.project import PROGRAM

#: Functions that list the values of an option, by the option's name (``distro``) or by task and option
#: (``install.name``). A function takes a task's context and starts nothing. If it raises, nothing is offered.
Names = Mapping[str, Callable[[Context], Iterable[str]]]

#: The candidate that makes the shell offer files.
FILES = ":files"

#: Seconds that a function of `Names` may take, because the user waits for it.
_TIME_LIMIT = 2

_SCRIPTS = {path.suffix[1:]: path for path in sorted((Path(__file__).parent / "shells").iterdir())}


def get_script(shell: str) -> str:
    """Return the script that makes ``shell`` complete this checkout's ./inv. Raises VirtrootError for other shells."""
    if shell not in _SCRIPTS:
        raise VirtrootError(f"no completion script for shell {shell!r}", f"use {' or '.join(_SCRIPTS)}")
    # The script runs the checkout's inv by its absolute path: ./inv in the directory of a guest's root may be
    # another program.
    return _SCRIPTS[shell].read_text(encoding="utf-8").replace("@INV@", shlex.join(invocation.make_command(PROGRAM)))


def read_leniently(line: Line, words: Iterable[str]) -> Line:
    """Parse ``words`` and skip those that are wrong; the run of the line reports them."""
    for word in words:
        with suppress(VirtrootError):
            line.take(word)
    return line


def find_candidates(
    line: Line, words: Sequence[str], tasks: Iterable[str], names: Names, context: Callable[[], Context]
) -> list[str]:
    """Return the completions of the last of ``words``, which may be empty.

    ``context`` makes the context that the functions of ``names`` take; it is called only if one of them is needed.
    """
    *before, begun = words or [""]
    if "--" in before:
        return []
    read_leniently(line, before)
    written, equals, _ = begun.partition("=")

    def values(argument: Argument) -> list[str]:
        find = names.get(f"{line.context.name}.{argument.names[0]}", names.get(argument.names[0]))
        if find is None:
            return [FILES]
        with suppress(Exception), _limit_time():
            return sorted(find(context()))
        return []

    if line.option:
        found = values(line.option)
    elif equals and begun.startswith("--"):
        known = line.find(written)
        found = values(known[0]) if known and known[0].takes_value else []
        found = [each if each == FILES else f"{written}={each}" for each in found]
    elif begun.startswith("-"):
        found = _list_options(line)
    elif not line.called:
        found = list(tasks)
    elif line.name:
        given = line.name.value if line.name.kind is list else []
        found = [each for each in values(line.name) if each not in given] or _list_options(line)
    else:
        found = _list_options(line)
    # The shell reads one candidate per line.
    return [each for each in found if each == FILES or (each.startswith(begun) and each.isprintable())]


def _list_options(line: Line) -> list[str]:
    """Return the options that may come next: those of the last task, or in front of the tasks, without the given."""
    arguments = [*line.context.args.values(), *([line.core.args["connect"]] if line.called else [])]
    left = [each for each in arguments if each.raw_value is None or each.kind is list]
    return sorted([*(format_option(each) for each in left), *line.context.inverse_flags])


@contextmanager
def _limit_time() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
