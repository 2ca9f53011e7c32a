"""Show a page of the book, or a part of it, in the terminal; found by its name or by the text of an error."""

from __future__ import annotations

import re

from pipelines.book import pages, site
from pipelines.book.pages import Part
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.log import page, result, say
from pipelines.symptom.recognise import find_symptoms
from pipelines.text import plain, table

#: The page with a part for each error.
_ERRORS = "troubleshooting"


def format_topics() -> str:
    """Return the names and titles of the pages, one per line."""
    return table([("TOPIC", ""), *((each.name, each.title) for each in pages.list_pages() if each.name != "index")])


def show_topic(topic: str) -> None:
    """Print a page of the book, the part with that anchor, or the part about an error's text.

    If the text has several known errors, print the first, and the names of the others. Raises VirtrootError if nothing
    is found.
    """
    first, *others = find_parts(topic)
    page(pages.as_text(first))
    if others:
        say(f"also: {', '.join(f'./inv help {each.name}' for each in others)}")


def find_parts(topic: str) -> list[Part]:
    """Return the page or part ``topic``, or the parts about errors in that text, causes first.

    These are the parts of the symptoms whose patterns match; without a match, those whose heading is in the text; and
    without one, those that contain the words of the text. Raises VirtrootError if there is none.
    """
    try:
        return [pages.get_page(topic)]
    except VirtrootError as unknown:
        errors = list(pages.list_parts(pages.get_page(_ERRORS)))
        shown = [symptom.name for symptom in find_symptoms([topic])]
        words = _split_words(topic)
        about = (
            [each for name in shown for each in errors if each.name == name]
            or [each for each in errors if _has_words(words, _split_words(each.title))]
            or [each for each in errors if _has_words(_split_words(pages.as_text(each)), words)]
        )
        if not about and len(words) > 1:
            raise VirtrootError(unknown.what, f"run ./inv help {_ERRORS} for the known errors") from unknown
        if not about:
            raise
        return about


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", plain(text).lower())


def _has_words(text: list[str], words: list[str]) -> bool:
    """Return whether ``words`` are in ``text`` in that order; False for a single word, which is in too many texts."""
    return len(words) > 1 and f" {' '.join(words)} " in f" {' '.join(text)} "


@task(name="help", positional=["topic"], help={"topic": "a page, a named part of one, or the text of an error"})
def help_task(
    c: Context,
    topic: str = "",
) -> None:
    """Show a page of the book in the terminal; without a topic, list the pages.

    ./inv help docker
    ./inv help "Too many levels of symbolic links"
    """
    if topic:
        show_topic(topic)
    else:
        result(format_topics())


@task(name="book")
def book_task(
    c: Context,
) -> None:
    """Build the book as a site with a search, and print the path of its first page.

    ./inv book
    """
    result(str(site.build(settings_of(c))))
