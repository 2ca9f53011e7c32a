"""What the shell offers when Tab is pressed."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.parser.argument import Argument

from pipelines.cli.command_line import Line, flag
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT

#: Finds the values of an option, by its name (``distro``), or by its task's name too (``install.name``). It is given
#: what a task is given, starts nothing, and may raise anything: then nothing is offered.
Names = Mapping[str, Callable[[Context], Iterable[str]]]

#: The answer that tells the shell to offer files.
FILES = ":files"

#: Seconds that finding names may take; who presses Tab waits.
_PATIENCE = 2

_SCRIPTS = {path.suffix[1:]: path for path in sorted((Path(__file__).parent / "shells").iterdir())}


def script(shell: str) -> str:
    """Return the script that makes ``shell`` complete ./inv of this checkout."""
    if shell not in _SCRIPTS:
        raise VirtrootError(f"no completion for the shell {shell!r}", f"use {' or '.join(_SCRIPTS)}")
    # The checkout's own inv is asked, wherever the line says ./inv: a root's directory may hold another one.
    return _SCRIPTS[shell].read_text(encoding="utf-8").replace("@INV@", shlex.quote(str(CHECKOUT / "inv")))


def read_gently(line: Line, words: Iterable[str]) -> Line:
    """Read ``words`` as far as they make sense; what is wrong in them is said when the line is run."""
    for word in words:
        with suppress(VirtrootError):
            line.take(word)
    return line


def candidates(
    line: Line, words: Sequence[str], tasks: Iterable[str], names: Names, context: Callable[[], Context]
) -> list[str]:
    """Return what the last of ``words``, which may be empty, can become; ``context`` is asked for before ``names``."""
    *before, begun = words or [""]
    if "--" in before:
        return []
    read_gently(line, before)
    written, equals, _ = begun.partition("=")

    def values(argument: Argument) -> list[str]:
        find = names.get(f"{line.context.name}.{argument.names[0]}", names.get(argument.names[0]))
        if find is None:
            return [FILES]
        with suppress(Exception), _patience():
            return sorted(find(context()))
        return []

    if line.option:
        found = values(line.option)
    elif equals and begun.startswith("--"):
        known = line.find(written)
        found = values(known[0]) if known and known[0].takes_value else []
        found = [each if each == FILES else f"{written}={each}" for each in found]
    elif begun.startswith("-"):
        found = _options(line)
    elif not line.called:
        found = list(tasks)
    elif line.name:
        found = values(line.name) or _options(line)
    else:
        found = _options(line)
    # The shell reads a candidate a line.
    return [each for each in found if each == FILES or (each.startswith(begun) and each.isprintable())]


def _options(line: Line) -> list[str]:
    """Return the options of the task, or before any task, that were not given yet."""
    arguments = [*line.context.args.values(), *([line.core.args["connect"]] if line.called else [])]
    left = [each for each in arguments if each.raw_value is None or each.kind is list]
    return sorted([*(flag(each) for each in left), *line.context.inverse_flags])


@contextmanager
def _patience() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
