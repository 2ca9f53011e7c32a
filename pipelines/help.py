"""Help: the book, a page or a part of it at a time, in the terminal; found by its name, or by the text of an error."""

from __future__ import annotations

import re

from pipelines.book import pages, site
from pipelines.book.pages import Part
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.log import page, result, say
from pipelines.symptom.recognise import find_symptoms
from pipelines.text import plain, table

#: The page whose parts are errors.
_ERRORS = "troubleshooting"


def topics() -> str:
    """Return the names of the pages with their titles, a line each."""
    return table([("TOPIC", ""), *((each.name, each.title) for each in pages.list_pages() if each.name != "index")])


def show(topic: str) -> None:
    """Print a page of the book, the part whose heading has that anchor, or what there is about an error's text.

    Where the text shows several errors that are known, it is the first, and the others are named. Raises
    `VirtrootError` for anything else.
    """
    first, *others = found(topic)
    page(pages.as_text(first))
    if others:
        say(f"also: {', '.join(f'./inv help {each.name}' for each in others)}")


def found(topic: str) -> list[Part]:
    """Return the page or part ``topic``, or else the parts about errors that it shows, causes first.

    Those are the symptoms whose pattern finds them in it, or else parts whose heading it has in it, or that have its
    words in them.
    """
    try:
        return [pages.get_page(topic)]
    except VirtrootError as unknown:
        errors = list(pages.list_parts(pages.get_page(_ERRORS)))
        shown = [symptom.name for symptom in find_symptoms([topic])]
        words = _words(topic)
        about = (
            [each for name in shown for each in errors if each.name == name]
            or [each for each in errors if _has(words, _words(each.title))]
            or [each for each in errors if _has(_words(pages.as_text(each)), words)]
        )
        if not about and len(words) > 1:
            raise VirtrootError(unknown.what, f"./inv help {_ERRORS} has the errors that are known") from unknown
        if not about:
            raise
        return about


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", plain(text).lower())


def _has(text: list[str], words: list[str]) -> bool:
    """Say whether ``words``, more than one, are in ``text`` as they stand; one alone is in too many."""
    return len(words) > 1 and f" {' '.join(words)} " in f" {' '.join(text)} "


@task(name="help", positional=["topic"], help={"topic": "a page, a part of one that has a name, or an error's text"})
def help_task(
    c: Context,
    topic: str = "",
) -> None:
    """Show a page of the book in the terminal; without a topic, list the pages.

    ./inv help docker
    ./inv help "Too many levels of symbolic links"
    """
    if topic:
        show(topic)
    else:
        result(topics())


@task(name="book")
def book_task(
    c: Context,
) -> None:
    """Make a site of the book, with a search of its own; prints its first page.

    ./inv book
    """
    result(str(site.build(settings_of(c))))
