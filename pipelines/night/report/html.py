"""HTML as a tree of elements: all text in it is escaped when the tree is serialized."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from pipelines.text import one_line, plain

Element = ET.Element

#: A child of an element; None is left out, for parts that are optional.
Node = Element | str | None

_STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")

# No scripts, frames or forms, and nothing loaded except this style, which is identified by its digest.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def element(tag: str, *children: Node, **attributes: str | float | None) -> Element:
    """Return an element; ``class_`` is the attribute class, ``aria_label`` aria-label; None leaves an attribute out."""
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _format_attribute(value))
    return add(made, *children)


def add(parent: Element, *children: Node) -> Element:
    """Append ``children`` to ``parent``, and return it; control characters are removed from text."""
    for child in children:
        if isinstance(child, str):
            text = plain(child)
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + text
            else:
                parent.text = (parent.text or "") + text
        elif child is not None:
            parent.append(child)
    return parent


def _format_attribute(value: str | float) -> str:
    if isinstance(value, str):
        return one_line(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def make_table(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Node, ...]], class_: str) -> Element:
    """Return a table that scrolls on its own if it is too wide; the first cell of each row is its heading."""
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body), class_=class_
    )
    return make_scrolling_box(caption, whole)


def make_scrolling_box(label: str, *children: Node, class_: str = "scroll") -> Element:
    """Return a box that scrolls sideways, also by keyboard."""
    return element("div", *children, class_=class_, role="region", aria_label=label, tabindex="0")


def make_document(title: str, *body: Node) -> str:
    """Return a complete page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        # Prevents browsers from requesting /favicon.ico.
        element("link", rel="icon", href="data:,"),
        element("title", title),
    )
    style = Element("style")
    style.text = _STYLE
    head.append(style)
    whole = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{ET.tostring(whole, encoding='unicode', method='html')}\n"
