"""The blocks of the book: files that it has people write, and commands that it has them type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.settings import CHECKOUT

DOCS = CHECKOUT / "docs"

#: In this order they tell one story, of the guest web.
STORY = ("first-recipe", "guests", "upgrade", "nightly", "clones", "shares", "mirrors")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

_RUN = re.compile(r"run(?:: exit (?P<status>[0-9]+))?")
_ELSEWHERE = re.compile(r"run by (?P<test>tests/[\w/]+\.py::test_\w+)")
_NOT = re.compile(r"not run: (?P<reason>.+)")


@dataclass(frozen=True)
class Block:
    """A block of a page: a file where it has a title, commands where its language is ``sh``."""

    page: str
    note: str
    language: str
    title: str
    text: str

    @property
    def status(self) -> int | None:
        """What its commands end with where tests/e2e/test_book.py runs them; else None."""
        found = _RUN.fullmatch(self.note)
        return int(found["status"] or 0) if found else None

    @property
    def test(self) -> str:
        """The test that runs such commands elsewhere, or nothing."""
        found = _ELSEWHERE.fullmatch(self.note)
        return found["test"] if found else ""

    @property
    def reason(self) -> str:
        """Why nothing runs them, or nothing."""
        found = _NOT.fullmatch(self.note)
        return found["reason"] if found else ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each ./inv in it."""
        found = []
        for words in self._parts():
            if "./inv" in words:
                rest = words[words.index("./inv") + 1 :]
                ends = [place for place, word in enumerate(rest) if word in {">", "|", "&"}]
                found.append(rest[: ends[0]] if ends else rest)
        return found

    @property
    def programs(self) -> set[str]:
        """What else it begins a line with."""
        return {words[0] for words in self._parts() if words and "./inv" not in words}

    def _parts(self) -> Iterator[list[str]]:
        for line in self.text.splitlines():
            # What a substitution of ./inv gives is a variable's.
            for part in re.split(r" (?:\|\||&&|;) ", re.sub(r"^\w+=\$\((\./inv .*)\)$", r"\1", line)):
                yield shlex.split(part, comments=True)


def inline(text: str) -> list[str]:
    """Return the code inside a text's lines: blocks apart, and a table's bars without what escapes them."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    return [" ".join(code.split()).replace("\\|", "|") for code in re.findall(r"`([^`]+)`", prose)]


def words_of(typed: str) -> list[str]:
    """Return the words that ./inv is given by what is typed; what is left out (…) is none of them."""
    words = [word for word in shlex.split(typed, comments=True) if word != "…"][1:]
    ends = [place for place, word in enumerate(words) if word in {">", "|", "&"}]
    return words[: ends[0]] if ends else words


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, in their order."""
    for found in _BLOCK.finditer((DOCS / f"{page}.md").read_text()):
        yield Block(page, found["note"] or "", found["language"], found["title"] or "", found["text"])


def pages() -> list[str]:
    """Return the names of all pages."""
    return sorted(path.stem for path in DOCS.glob("*.md"))
