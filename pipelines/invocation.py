"""How virtroot was started: its name in messages, and the command that starts it again."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from pipelines.project import PROGRAM, is_checkout

#: The name in the texts of messages, help and book.
_WRITTEN = "./inv"

#: The program of an installed virtroot.
_INSTALLED = "virtroot"

#: The name in text, but not as a part of a path.
_NAMED = re.compile(r"(?<![\w/.-])\./inv(?![\w/-])")


@cache
def get_name() -> str:
    """Return what a user types: ``./inv``, ``virtroot``, or ``invoke`` where invoke runs the tasks."""
    called = Path(sys.argv[0]).name if sys.argv else ""
    return called if called in {_INSTALLED, "invoke"} else _WRITTEN if is_checkout(PROGRAM) else _INSTALLED


def replace_name(text: str) -> str:
    """Return ``text``, a message or a page, with the program's name as the user typed it."""
    name = get_name()
    return text if name == _WRITTEN else _NAMED.sub(name, text)


def make_command(project: str | Path) -> list[str]:
    """Return the command line, without a task, that starts virtroot in ``project`` from any directory."""
    if is_checkout(PROGRAM):
        program = [str(PROGRAM / "inv")]
    else:
        installed = Path(sys.executable).parent / _INSTALLED
        called = Path(sys.argv[0]).absolute()
        script = called if called.name == _INSTALLED and called.is_file() else installed
        program = [str(script)] if script.is_file() else [sys.executable, "-P", "-m", _INSTALLED]
    return program if Path(project) == PROGRAM else [*program, "-C", str(project)]
