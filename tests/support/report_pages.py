"""Pages of the report, written and parsed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.night.report import pages

#: When the pages are written.
NOW = datetime(2026, 11, 12, 12, tzinfo=UTC)

#: Elements of HTML without an end tag.
_VOID = {"meta", "link", "br", "img", "hr"}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The output directory. It does not exist yet."""
    return tmp_path / "output"


class Page(HTMLParser):
    """A page, parsed by other code than that which wrote it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = ET.Element("root")
        self._open = [self.root]
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [self.root], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = ET.SubElement(self._open[-1], tag, {name: value or "" for name, value in attrs})
        if tag not in _VOID:
            self._open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        parent = self._open[-1]
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + data
        else:
            parent.text = (parent.text or "") + data

    def all(self, tag: str, class_: str = "") -> list[ET.Element]:
        return [each for each in self.root.iter(tag) if class_ in each.get("class", "").split(" ") or not class_]

    def texts(self, tag: str, class_: str = "") -> list[str]:
        return [get_text(each) for each in self.all(tag, class_)]

    def rows(self, class_: str) -> list[list[str]]:
        """Return the cells of each table of that class, without its heading."""
        bodies = [body for table in self.all("table", class_) for body in table.iter("tbody")]
        return [[get_text(cell) for cell in row] for body in bodies for row in body]

    def figure(self, title: str) -> ET.Element:
        return next(each for each in self.all("figure") if title in get_text(each))


def get_text(element: ET.Element) -> str:
    """Return the text of an element and of those in it, with single spaces."""
    return " ".join("".join(element.itertext()).split())


def write_page(output: Path, recipe: str = "") -> Page:
    """Write the pages of all recipes, and parse that of one, or the index."""
    assert pages.write(output, NOW) == output / "index.html"
    return Page(output / recipe / "index.html")
