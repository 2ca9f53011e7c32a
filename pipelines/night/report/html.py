"""HTML as a tree of elements: whatever is put into one is text, and escaped when the tree is written."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from pipelines.text import one_line, plain

Element = ET.Element

#: What an element may have in it; None is nothing, so that parts can be left out.
Node = Element | str | None

_STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")

# No script, no frame, no form, and nothing from anywhere but this style, which is known by its digest.
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
    """Return an element; ``class_`` is the attribute class, ``aria_label`` aria-label, and None is no attribute."""
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _attribute(value))
    return add(made, *children)


def add(parent: Element, *children: Node) -> Element:
    """Put ``children`` behind what is in ``parent``, and return that; text loses its control characters."""
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


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return one_line(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Node, ...]], class_: str) -> Element:
    """Return a table that scrolls in itself where it is wider than the page; the first cell of a row is its heading."""
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body), class_=class_
    )
    return scrolling(caption, whole)


def scrolling(label: str, *children: Node, class_: str = "scroll") -> Element:
    """Return a box that scrolls sideways, by keyboard too."""
    return element("div", *children, class_=class_, role="region", aria_label=label, tabindex="0")


def document(title: str, *body: Node) -> str:
    """Return a whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        # Browsers would ask for /favicon.ico.
        element("link", rel="icon", href="data:,"),
        element("title", title),
    )
    style = Element("style")
    style.text = _STYLE
    head.append(style)
    whole = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{ET.tostring(whole, encoding='unicode', method='html')}\n"
