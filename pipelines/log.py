"""Progress on stderr: a line per step with its time, live under a terminal, plain in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line of progress."""
    _console.print(message, markup=False)


def warn(message: str) -> None:
    """Print one line that the user should not miss."""
    _console.print(f"warning: {message}", markup=False, style="yellow")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Time what runs inside, and print ``name`` with the seconds it took, or that it failed."""
    start = time.monotonic()
    outcome = "failed"
    try:
        if _console.is_terminal:
            with _console.status(f"{name} …", spinner="line"):
                yield
        else:
            yield
        outcome = ""
    finally:
        say(f"{name:<46} {time.monotonic() - start:7.1f} s {outcome}".rstrip())
