"""The pages in a real browser; the pictures are left beside the test's other files, to be looked at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pipelines.night.report import pages
from pipelines.settings import Settings
from tests.browser import PAGES, View, chromium
from tests.support import histories

#: A desk's window, a tablet's and a phone's.
WIDTHS = (1280, 768, 360)


def test_pages_are_read_by_whoever_looks(tmp_path: Path) -> None:
    output = tmp_path / "output"
    histories.twelve_nights(output, "web")
    histories.good(output, "db", nights=3)
    evil = histories.hostile(output).directory.parent
    pages.write(output, datetime(2026, 11, 12, 12, tzinfo=UTC))
    # A file system's names may be more than a browser's command line takes.
    names = {"index": output, "web": output / "web", "db": output / "db", "evil": evil}
    shown = {f"{name}/index.html": (home / "index.html").read_bytes() for name, home in names.items()}
    views = [(page, width, scheme) for page in shown for width in WIDTHS for scheme in ("light", "dark")]
    with chromium(Settings().base) as browser:
        seen = browser.look(shown, views)
    for view in seen:
        (tmp_path / f"{view.page.partition('/')[0]}-{view.width}-{view.scheme}.png").write_bytes(view.picture)
        check(view)

    web = next(view for view in seen if view.page == "web/index.html")
    assert web.named("heading")[:2] == ["web", "Last good, first broken, this one"]
    plots = web.named("image")
    assert [name.partition(" 11 runs")[0] for name in plots] == [
        "Build time by stage",
        "Boot time",
        "Size of the root",
    ]
    assert all("4 failed, 1 missing" in name for name in plots)
    assert "Runs, newest first" in web.named("table")
    assert {"Run", "Outcome", "Reason"} <= set(web.named("columnheader"))
    assert "2026-11-12 02:00" in web.named("rowheader")
    index = next(view for view in seen if view.page == "index/index.html")
    assert "days: 4 failed, 7 good, 1 missing" in index.named("image")
    light, dark = (
        next(view for view in seen if (view.page, view.width, view.scheme) == ("web/index.html", 1280, scheme))
        for scheme in ("light", "dark")
    )
    assert light.facts["background"] != dark.facts["background"]


def check(view: View) -> None:
    """Assert what holds for every page, however it is looked at."""
    where = f"{view.page}, {view.width} px, {view.scheme}"
    facts = view.facts
    assert facts["requested"] == [f"file://{PAGES}/{view.page}"], where
    assert facts["console"] == [], where
    assert facts["pwned"] is None, where
    assert facts["window"] == view.width, where
    assert facts["width"] <= view.width, f"{where}: the page scrolls sideways"
    assert facts["outside"] == [], f"{where}: cut off"
    assert facts["texts"] > 20, where
    assert facts["faint"] == [], f"{where}: too little contrast"
    assert facts["newest"], f"{where}: a plot does not begin with the newest nights"
    assert view.picture.startswith(b"\x89PNG"), where
