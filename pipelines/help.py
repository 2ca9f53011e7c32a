"""Help: the book, a page or a part of it at a time, in the terminal."""

from __future__ import annotations

from pipelines.book import pages
from pipelines.log import page
from pipelines.text import table


def topics() -> str:
    """Return the names of the pages with their titles, a line each."""
    return table([("TOPIC", ""), *((each.name, each.title) for each in pages.pages() if each.name != "index")])


def show(topic: str) -> None:
    """Print a page of the book, or the part whose heading has that anchor; raises `VirtrootError` for any other."""
    page(pages.as_text(pages.find(topic)))
