"""The book as a site: every link leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from tests import book
from tests.conftest import Virtroot


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(inv: Virtroot) -> None:
    first = Path(inv("book").stdout.strip())
    assert first == inv.output / ".book" / "index.html"
    assert {page.stem for page in first.parent.glob("*.html")} >= {*book.pages()}
    for page in first.parent.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|source|iframe)\b[^>]*?(?:src|href|srcset)=\"?(https?:[^\"\s>]+)", page.read_text()
        )
        assert loaded == [], page
