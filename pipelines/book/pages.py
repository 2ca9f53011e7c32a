"""The book's pages, and the parts of them that have a name, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT

DOCS = CHECKOUT / "docs"

#: What the site alone has a use for: anchors of headings, and notes to the tests.
_ANCHOR = re.compile(r"[ ]*\{ *#(?P<name>[a-z0-9-]+) *\}$")
_NOTE = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_PICTURE = re.compile(r"^(<picture>.*?</picture>|!\[.*\]\(.*\)(\{.*\})?)\n*", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"(#+) +(.+)")
_FENCE = re.compile(r" *(```|~~~)")


@dataclass(frozen=True)
class Part:
    """A heading and what is under it, down to the next one that is no deeper: a page, or a part of one."""

    name: str
    title: str
    text: str


def pages() -> list[Part]:
    """Return the pages, the first one first, then by name; a page's name is its file's."""
    paths = sorted(DOCS.glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    return [_page(path) for path in paths]


def find(topic: str) -> Part:
    """Return the page ``topic``, or the part of any page whose heading has that anchor; raises `VirtrootError`."""
    wanted = topic.strip().lower().removesuffix(".md").replace(" ", "-").replace("_", "-")
    known = {page.name: page for page in pages()}
    known |= {part.name: part for page in known.copy().values() for part in parts(page) if part.name not in known}
    if wanted in known:
        return known[wanted]
    begun = [name for name in known if name.startswith(wanted)] if wanted else []
    if len(begun) == 1:
        return known[begun[0]]
    near = begun or get_close_matches(wanted, known, n=3)
    hint = f"./inv help {near[0]}; or ./inv help" if near else "./inv help lists them"
    raise VirtrootError(f"the book has no page {topic!r}", hint)


def parts(page: Part) -> Iterator[Part]:
    """Yield the parts of a page whose headings have an anchor."""
    lines = page.text.splitlines()
    headings = [(number, len(found[1]), found[2]) for number, found in _headings(lines)]
    for place, (number, depth, title) in enumerate(headings):
        anchor = _ANCHOR.search(title)
        if anchor:
            end = next((other for other, level, _ in headings[place + 1 :] if level <= depth), len(lines))
            yield Part(anchor["name"], _ANCHOR.sub("", title), "\n".join(lines[number:end]))


def as_text(part: Part) -> str:
    """Return a part as it is to be read in a terminal: Markdown without what only the site needs."""
    text = _PICTURE.sub("", _NOTE.sub("", part.text))
    lines = text.splitlines()
    for number, _ in _headings(lines):
        lines[number] = _ANCHOR.sub("", lines[number])
    return "\n".join(lines).strip() + "\n"


def _page(path: Path) -> Part:
    text = path.read_text(encoding="utf-8")
    title = next((found[2] for _, found in _headings(text.splitlines())), path.stem)
    return Part(path.stem, _ANCHOR.sub("", title), text)


def _headings(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield the headings with the numbers of their lines; a comment in a block of commands is none."""
    fenced = False
    for number, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        found = None if fenced else _HEADING.fullmatch(line)
        if found:
            yield number, found
