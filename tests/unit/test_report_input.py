"""Hostile, damaged and odd input of the report."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

from pipelines.artifact.history import History
from pipelines.artifact.manifest import StageTime
from pipelines.artifact.store import Store
from pipelines.night.report import pages
from pipelines.night.report.html import element
from pipelines.text import plain
from tests.support import histories
from tests.support.report_pages import NOW, Page, get_text, output, write_page

__all__ = ["output"]


def test_text_of_others_is_escaped(output: Path) -> None:
    artifact = histories.hostile(output)
    pages.write(output, NOW)
    texts = []
    for path in (output / "index.html", artifact.directory.parent / "index.html"):
        content = path.read_text(encoding="utf-8")
        assert plain(content) == content
        shown = Page(path)
        tags = {each.tag for each in shown.root.iter()}
        assert not tags & {"script", "img", "iframe", "object", "form", "foreignobject"}
        for each in shown.root.iter():
            assert not [name for name in each.attrib if name.startswith("on") or name == "style"]
            assert not each.get("href", "").lstrip().lower().startswith(("javascript:", "http", "//", "file:"))
        for link in shown.all("a"):
            target = (path.parent / unquote(link.get("href", ""))).resolve()
            assert target.is_file()
            assert target.is_relative_to(output.resolve())
        policy = next(each.get("content", "") for each in shown.all("meta") if each.get("http-equiv"))
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script" not in policy
        texts.append(get_text(shown.root))
    assert "<script>pwned=1</script>" in texts[1]
    assert "<script>pwned=4<" in texts[0]


def test_attributes_are_plain_text() -> None:
    made = element("p", "a\x1b[31m\nb", title="a\x1b[31m\n\u202eb", class_=None, data_x=1.50)
    assert ET.tostring(made, encoding="unicode") == '<p title="a b" data-x="1.5">a\nb</p>'


def test_a_record_that_names_another_recipes_build_links_nothing(output: Path) -> None:
    histories.good(output, "db")
    nights = histories.twelve_nights(output)
    (output / "web" / "link").symlink_to(histories.build_name(histories.DAYS - 1))
    for artifact in (f"db/{histories.build_name(0)}", "web/golden", "web/link", "web/..", "web/", "/etc"):
        History(output / "web" / "history.jsonl").append(nights[-1].model_copy(update={"artifact": artifact}))
        newest = write_page(output, "web").all("table", "nights")[0].find("tbody/tr")
        assert newest is not None
        assert not list(newest.iter("a"))


def test_an_unreadable_history_does_not_hide_another(output: Path) -> None:
    histories.good(output)
    (output / "odd" / "history.jsonl").mkdir(parents=True)
    with (output / "db" / "history.jsonl").open("a") as file:
        file.write('{"recipe": "db", "time": "yesterday"}\n{"time": "2026-11-04T02:00:00+09:00"}\ntorn')
    assert [row[:2] for row in write_page(output).rows("recipes")] == [["db", "✓ good"], ["odd", "? unknown"]]
    assert "Is a directory" in write_page(output).rows("recipes")[1][3]
    assert "Is a directory" in " ".join(write_page(output, "odd").texts("dd"))


def test_odd_times_and_numbers_are_shown(output: Path) -> None:
    history, first = History(output / "web" / "history.jsonl"), histories.night("web", 0, None)
    odd = {"boot_seconds": 5e-324, "stages": (StageTime(name="base", seconds=5e-324),), "packed_size": 0}
    for time in ("9999-12-31T23:59:59Z", "2026-11-01T02:00:00Z", "0001-01-01T00:00:00Z"):
        history.append(first.model_copy(update={"time": time, **odd}))
    web = write_page(output, "web")
    assert len(web.rows("nights")) == 1
    assert len(web.all("figure")) == 3


def test_names_that_are_not_utf_8_are_linked_unchanged(output: Path) -> None:
    histories.good(output, "db")
    histories.good(output, "mail")
    (output / "mail").rename(output / os.fsdecode(b"\xffmail"))
    build = Store(output).builds("db")[0].directory
    (build / os.fsdecode(b"junit-\xfe.xml")).touch()
    assert [each.get("href") for each in write_page(output).all("a")] == ["db/index.html", "%FFmail/index.html"]
    assert f"{build.name}/junit-%FE.xml" in [each.get("href") for each in Page(output / "db" / "index.html").all("a")]
