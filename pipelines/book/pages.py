"""The book's pages, and their named parts, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.project import PROGRAM

DOCS = PROGRAM / "docs"

#: Text that only the site and the tests need: anchors of headings, notes to the tests, pictures.
_ANCHOR = re.compile(r"[ ]*\{ *#(?P<name>[a-z0-9-]+) *\}$")
_NOTE = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_PICTURE = re.compile(r"^(<picture>.*?</picture>|!\[.*\]\(.*\)(\{.*\})?)\n*", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"(#+) +(.+)")
_FENCE = re.compile(r" *(```|~~~)")


@dataclass(frozen=True)
class Part:
    """A page or a part of one: a heading, and the text up to the next heading of the same or a higher level."""

    name: str
    title: str
    text: str


def list_pages() -> list[Part]:
    """Return the pages, index first, the others sorted by name. A page's name is that of its file."""
    paths = sorted(DOCS.glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    return [_read_page(path) for path in paths]


def get_page(topic: str) -> Part:
    """Return the page ``topic``, or the part of a page with that anchor. Raises VirtrootError if there is none."""
    wanted = topic.strip().lower().removesuffix(".md").replace(" ", "-").replace("_", "-")
    known = {page.name: page for page in list_pages()}
    known |= {part.name: part for page in known.copy().values() for part in list_parts(page) if part.name not in known}
    if wanted in known:
        return known[wanted]
    begun = [name for name in known if name.startswith(wanted)] if wanted else []
    if len(begun) == 1:
        return known[begun[0]]
    near = begun or get_close_matches(wanted, known, n=3)
    hint = f"run ./inv help {near[0]}, or ./inv help" if near else "run ./inv help for the pages"
    raise VirtrootError(f"no page {topic!r} in the book", hint)


def list_parts(page: Part) -> Iterator[Part]:
    """Yield the parts of a page whose headings have an anchor."""
    lines = page.text.splitlines()
    headings = [(number, len(found[1]), found[2]) for number, found in _find_headings(lines)]
    for place, (number, depth, title) in enumerate(headings):
        anchor = _ANCHOR.search(title)
        if anchor:
            end = next((other for other, level, _ in headings[place + 1 :] if level <= depth), len(lines))
            yield Part(anchor["name"], _ANCHOR.sub("", title), "\n".join(lines[number:end]))


def as_text(part: Part) -> str:
    """Return a part as Markdown for a terminal, without what only the site needs."""
    text = _PICTURE.sub("", _NOTE.sub("", part.text))
    lines = text.splitlines()
    for number, _ in _find_headings(lines):
        lines[number] = _ANCHOR.sub("", lines[number])
    return "\n".join(lines).strip() + "\n"


def _read_page(path: Path) -> Part:
    text = path.read_text(encoding="utf-8")
    title = next((found[2] for _, found in _find_headings(text.splitlines())), path.stem)
    return Part(path.stem, _ANCHOR.sub("", title), text)


def _find_headings(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield the headings with their line numbers; comments in blocks of commands are skipped."""
    fenced = False
    for number, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        found = None if fenced else _HEADING.fullmatch(line)
        if found:
            yield number, found
