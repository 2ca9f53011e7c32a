"""Output of a task: progress on stderr, with one timed line per step and live on a terminal; the result on stdout."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

from pipelines import invocation
from pipelines.text import age, flat, plain, size, without_logins

#: The console on stderr, made when it is first used: the import of rich takes longer than many tasks.
_console: Console | None = None

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two lines of progress, if stderr is not a terminal.
_PROGRESS_INTERVAL = 15.0

#: The width of a page of the book, in columns, on a wide terminal.
_MAX_COLUMNS = 100

#: How many characters of a command `detail` prints: scripts are arguments, too.
_MAX_COMMAND = 300

_ignoring_errors = False
_quiet = _verbose = False

_prefix: ContextVar[str] = ContextVar("speaker", default="")


def _get_console() -> Console:
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True, highlight=False, soft_wrap=True)
    return _console


def set_volume(*, quiet: bool, verbose: bool) -> None:
    """Print no progress, only warnings, errors and results (``quiet``); or also each command (``verbose``)."""
    global _quiet, _verbose
    _quiet, _verbose = quiet, verbose


def detail(argv: Sequence[str]) -> None:
    """Print a command that is about to run, if the user wants to see them."""
    if _verbose:
        shown = flat(shlex.join(argv))
        _print(f"+ {shown[:_MAX_COMMAND]}{'…' if len(shown) > _MAX_COMMAND else ''}", "dim")


def say(message: str, *, lines: bool = False) -> None:
    """Print one line of progress; with ``lines`` keep the newlines of ``message``, for the text of an error."""
    if _quiet:
        return
    _print(plain(message) if lines else flat(message), "")


def warn(message: str) -> None:
    """Print a one-line warning."""
    _print(flat(f"warning: {message}"), "yellow")


def _print(message: str, style: str) -> None:
    try:
        _get_console().print(
            _add_prefix(invocation.replace_name(without_logins(message))), markup=False, style=style or None
        )
    except (OSError, SystemExit):
        # rich's console raises SystemExit when its reader closes the pipe.
        if not _ignoring_errors:
            raise


@contextmanager
def ignore_output_errors() -> Iterator[None]:
    """Ignore errors of output inside the block: the disk of the log is full, or its reader has closed the pipe."""
    global _ignoring_errors
    before, _ignoring_errors = _ignoring_errors, True
    try:
        yield
    finally:
        _ignoring_errors = before


@contextmanager
def prefix_lines(name: str) -> Iterator[None]:
    """Print ``name`` in front of each line of this thread inside the block, since several threads print."""
    token = _prefix.set(name)
    try:
        yield
    finally:
        _prefix.reset(token)


def _add_prefix(text: str) -> str:
    speaker = _prefix.get()
    return "\n".join(f"{speaker}: {line}" for line in text.split("\n")) if speaker else text


def result(text: str, *, end: str = "\n") -> None:
    """Print the result of a task on stdout; append ``end`` if ``text`` does not end with it."""
    text = plain(text)
    sys.stdout.write(text if text.endswith(end) else f"{text}{end}")
    sys.stdout.flush()


def result_lines(lines: Iterable[str]) -> None:
    """Print each of ``lines`` on stdout as it comes. Newlines in a quoted text become spaces."""
    for line in lines:
        result(flat(line))


def confirm(question: str) -> bool:
    """Ask a question on the terminal and return whether the answer is yes; without a terminal return False."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def page(markdown: str) -> None:
    """Print a page of the book on stdout: formatted on a terminal, otherwise as Markdown."""
    markdown = invocation.replace_name(markdown)
    if not sys.stdout.isatty():
        result(markdown)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    with Console(highlight=False) as shown:
        shown.print(Markdown(markdown, hyperlinks=False), width=min(shown.width, _MAX_COLUMNS))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run the block, and print ``name`` with its duration in seconds, and whether it failed."""
    name = flat(name)
    start = time.monotonic()
    outcome = "failed"
    try:
        if not _quiet and _get_console().is_terminal and not _prefix.get():
            with _get_console().status(f"{name} …", spinner="line"):
                yield
        else:
            yield
        outcome = ""
    finally:
        say(f"{name:<46} {time.monotonic() - start:7.1f} s {outcome}".rstrip(" "))


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Time the block as `step` does, and yield a function that takes the size of each of its pieces, in bytes.

    ``total`` is the sum of the pieces, in bytes. A terminal shows the bytes and the time left continuously; otherwise
    they are printed every 15 seconds.
    """
    done, start, printed = 0, time.monotonic(), time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        if shown is not None:
            shown.update(bar, completed=min(done, total))
        elif time.monotonic() - printed > _PROGRESS_INTERVAL:
            printed = time.monotonic()
            left = (printed - start) * max(total - done, 0) / max(done, 1)
            say(f"{name}: {size(done)} of {size(total)}, {age(int(left))} left")

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
    live = not _quiet and _get_console().is_terminal and not _prefix.get()
    shown = Progress(*columns, console=_get_console(), transient=True) if live else None
    with step(name) if shown is None else nullcontext():
        if shown is None:
            yield advance
            return
        with shown:
            bar = shown.add_task(flat(name), total=total)
            yield advance
    say(f"{flat(name):<46} {time.monotonic() - start:7.1f} s")


def output(stream: TextIO) -> Callable[[bytes], object]:
    """Return a function that writes a command's output to ``stream`` unchanged, and flushes it."""

    def write(chunk: bytes) -> None:
        stream.buffer.write(chunk)
        stream.buffer.flush()

    return write
