"""What a task says: progress on stderr, a line per step with its time, live under a terminal; its result on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.text import age, flat, plain, size, without_logins

_console = Console(stderr=True, highlight=False, soft_wrap=True)

#: Seconds between two lines about what takes long, where no terminal shows it all along.
_TOLD_EVERY = 15.0

#: Columns of a line that is read with ease.
_WIDEST = 100

_deaf = False

_speaker: ContextVar[str] = ContextVar("speaker", default="")


def say(message: str, *, lines: bool = False) -> None:
    """Print one line of progress, or with ``lines`` as many as ``message`` has: for the text of an error."""
    _print(plain(message) if lines else flat(message), "")


def warn(message: str) -> None:
    """Print one line that the user should not miss."""
    _print(flat(f"warning: {message}"), "yellow")


def _print(message: str, style: str) -> None:
    try:
        _console.print(_spoken(without_logins(message)), markup=False, style=style or None)
    except (OSError, SystemExit):
        # The console's own way to take a reader's leave is to end the program.
        if not _deaf:
            raise


@contextmanager
def whoever_hears() -> Iterator[None]:
    """Go on inside though nobody can read what is said: the log's disk is full, or its reader has left."""
    global _deaf
    before, _deaf = _deaf, True
    try:
        yield
    finally:
        _deaf = before


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Begin each line that is said inside, and in no other thread, with ``name``: several are at work."""
    token = _speaker.set(name)
    try:
        yield
    finally:
        _speaker.reset(token)


def _spoken(text: str) -> str:
    speaker = _speaker.get()
    return "\n".join(f"{speaker}: {line}" for line in text.split("\n")) if speaker else text


def result(text: str, *, end: str = "\n") -> None:
    """Print what a task was asked for on stdout, with ``end`` behind it unless it is there."""
    text = plain(text)
    sys.stdout.write(text if text.endswith(end) else f"{text}{end}")
    sys.stdout.flush()


def result_lines(lines: Iterable[str]) -> None:
    """Print each of ``lines`` on stdout as it comes, on one line whatever it quotes."""
    for line in lines:
        result(flat(line))


def confirm(question: str) -> bool:
    """Ask the user on the terminal; without a terminal the answer is no."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def page(markdown: str) -> None:
    """Print a page of the book on stdout: laid out where that is a terminal, elsewhere as it is written."""
    if not sys.stdout.isatty():
        result(markdown)
        return
    # It takes longer to load than most tasks do.
    from rich.markdown import Markdown

    with Console(highlight=False) as shown:
        shown.print(Markdown(markdown, hyperlinks=False), width=min(shown.width, _WIDEST))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Time what runs inside, and print ``name`` with the seconds it took, or that it failed."""
    name = flat(name)
    start = time.monotonic()
    outcome = "failed"
    try:
        if _console.is_terminal and not _speaker.get():
            with _console.status(f"{name} …", spinner="line"):
                yield
        else:
            yield
        outcome = ""
    finally:
        say(f"{name:<46} {time.monotonic() - start:7.1f} s {outcome}".rstrip(" "))


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Time what runs inside as `step` does; yield what is told of each piece of the ``total`` bytes.

    A terminal shows bytes and the time left all along, anything else is told every quarter of a minute.
    """
    done, start, told = 0, time.monotonic(), time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if shown is not None:
            shown.update(bar, completed=min(done, total))
        elif time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            left = (told - start) * max(total - done, 0) / max(done, 1)
            say(f"{name}: {size(done)} of {size(total)}, {age(int(left))} left")

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
    live = _console.is_terminal and not _speaker.get()
    shown = Progress(*columns, console=_console, transient=True) if live else None
    with step(name) if shown is None else nullcontext():
        if shown is None:
            yield advance
            return
        with shown:
            bar = shown.add_task(flat(name), total=total)
            yield advance
    say(f"{flat(name):<46} {time.monotonic() - start:7.1f} s")


def output(stream: TextIO) -> Callable[[bytes], object]:
    """Return what passes a command's own output on to ``stream``, as it comes and byte by byte."""

    def write(chunk: bytes) -> None:
        stream.buffer.write(chunk)
        stream.buffer.flush()

    return write
