"""The pages, as text; how a browser shows them is in the integration tests."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from pipelines.artifact.history import History
from pipelines.artifact.manifest import StageTime
from pipelines.artifact.store import Store
from pipelines.errors import Phase, VirtrootError
from pipelines.night.report import axis, pages
from pipelines.night.report.facts import gather
from pipelines.night.report.html import element
from pipelines.text import plain
from tests.support import histories
from tests.support.artifacts import made

NOW = datetime(2026, 11, 12, 12, tzinfo=UTC)

#: What HTML has no end tags for.
_VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """A page taken apart as a browser does, not by the code that wrote it."""

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
        return [said(each) for each in self.all(tag, class_)]

    def rows(self, class_: str) -> list[list[str]]:
        """Return the cells of each table of that class, without its heading."""
        bodies = [body for table in self.all("table", class_) for body in table.iter("tbody")]
        return [[said(cell) for cell in row] for body in bodies for row in body]

    def figure(self, title: str) -> ET.Element:
        return next(each for each in self.all("figure") if title in said(each))


def said(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def page(output: Path, recipe: str = "") -> Page:
    assert pages.write(output, NOW) == output / "index.html"
    return Page(output / recipe / "index.html")


def heading(figure: ET.Element) -> str:
    return said(next(figure.iter("h3")))


def told(element: ET.Element, tag: str, class_: str) -> Iterator[str]:
    """Yield the titles of the marks of a class in a plot."""
    for each in element.iter(tag):
        if class_ in each.get("class", "").split(" ") and len(each):
            yield said(each[0])


def test_the_index_has_what_fails_first(output: Path) -> None:
    histories.good(output, "a-good")
    histories.twelve_nights(output, "web")
    made(output, "never", histories.build_name(0))
    index = page(output)
    assert [row[:4] for row in index.rows("recipes")] == [
        ["web", "✕ failed", "2026-11-10 02:00", "boot: no agent answered within 300 s"],
        ["a-good", "✓ good", "2026-11-01 02:00", "unchanged"],
        ["never", "? unknown", "–", "none yet"],
    ]
    assert index.rows("recipes")[0][6:] == ["3d", histories.build_name(histories.BROKEN - 1)]
    assert index.rows("recipes")[2][6:] == ["–", "none"]
    assert [each.get("href") for each in index.all("a")] == ["web/index.html", "a-good/index.html", "never/index.html"]
    assert "3 recipes: 1 failed, 1 good, 1 unknown." in index.texts("p")
    assert [each.get("aria-label") for each in index.all("svg", "marks")] == [
        "days: 4 failed, 7 good, 1 missing",
        "days: 3 good",
    ]


def test_a_failure_has_what_came_between(output: Path) -> None:
    histories.twelve_nights(output)
    web = page(output, "web")
    assert "failed since 2026-11-10 02:00 (2d)" in web.texts("dd")[0]
    assert web.texts("h3")[:3] == ["Last good", "First broken", "This one"]
    assert web.rows("packages") == [
        ["linux-image-cloud-amd64", "upgraded", "6.12.48-1", "6.12.57-1"],
        ["systemd", "upgraded", "257.8-1~deb13u2", "257.9-1~deb13u1"],
        ["tzdata", "upgraded", "2026b-0+deb13u1", "2026c-0+deb13u1"],
        ["zlib1g", "downgraded", "1:1.3.dfsg+really1.3.1-1+b1", "1:1.3.dfsg-2"],
    ]
    assert any("Kernel panic" in each for each in web.texts("pre"))


def test_what_came_between_is_known_without_the_builds_too(output: Path) -> None:
    histories.twelve_nights(output)
    facts = gather(Store(output), "web")
    assert facts.last_good is not None
    assert facts.last is not None
    whole = facts.compare_packages(facts.last_good, facts.last)
    assert whole
    store = Store(output)
    for build in store.builds("web")[1:]:
        store.delete(build)
    assert gather(store, "web").compare_packages(facts.last_good, facts.last) == whole
    store.delete(store.builds("web")[0])
    # Which of two versions is newer depends on the distribution, and no build is left that tells.
    assert gather(store, "web").compare_packages(facts.last_good, facts.last) is None
    assert "Not known" in " ".join(page(output, "web").texts("p"))


def test_plots_have_a_gap_where_a_night_is_missing(output: Path) -> None:
    histories.twelve_nights(output)
    web = page(output, "web")
    assert [heading(each) for each in web.all("figure")] == [
        "Build time by stage",
        "Boot time",
        "Size of the root",
    ]
    for each in web.all("figure"):
        gaps = [rect for rect in each.iter("rect") if rect.get("fill", "").startswith("url") and len(rect)]
        assert [said(gap) for gap in gaps] == ["no run"]
        left, right = float(gaps[0].get("x", "")), float(gaps[0].get("x", "")) + float(gaps[0].get("width", ""))
        for path in (path.get("d", "") for path in each.iter("path") if "line" in path.get("class", "")):
            ends = [float(number) for number in re.findall(r"[ML]([0-9.]+) ", path)]
            assert ends
            # No line crosses the gap: each piece is on one side of it.
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                assert end <= left or start >= right
        # Nor does one cross a night without a value: the third that failed built nothing, and those at the end did not
        # come up.
        pieces = [path.get("d", "").count("M") for path in each.iter("path") if "line" in path.get("class", "")]
        assert pieces == {"Build time by stage": [], "Boot time": [4], "Size of the root": [7, 7]}[heading(each)]
        marks = list(told(each, "path", "failed"))
        assert marks == [f"2026-11-{day:02} 02:00: failed" for day in (4, 10, 11, 12)]


def test_bars_are_as_high_as_their_times(output: Path) -> None:
    nights = histories.twelve_nights(output)
    figure = page(output, "web").figure("Build time by stage")
    bars = [rect for rect in figure.iter("rect") if rect.get("class", "").startswith("c") and len(rect)]
    built = [night for night in nights if night.stages]
    assert len(bars) == sum(len(night.stages) for night in built)
    ticks = [float(said(each)) for each in figure.iter("text") if not each.get("class")]
    assert ticks == [0, 10, 20, 30, 40]
    (axis_line,) = (
        each for each in figure.iter("path") if each.get("d", "").endswith("H664") and each.get("class") == "axis"
    )
    bottom = float(axis_line.get("d", "").split()[1].partition("H")[0])
    top = min(
        float(each.get("d", "").split()[1].partition("H")[0])
        for each in figure.iter("path")
        if each.get("class") == "grid"
    )
    first = [rect for rect in bars if said(rect).startswith("2026-11-01")]
    drawn = sum(float(rect.get("height", "")) for rect in first)
    assert drawn == pytest.approx((bottom - top) * sum(stage.seconds for stage in built[0].stages) / 40, abs=0.5)
    assert said(first[0]) == "2026-11-01 02:00: base 12 s"
    # The first stage stands on the axis, the next on the first.
    assert float(first[0].get("y", "")) + float(first[0].get("height", "")) == pytest.approx(bottom, abs=0.1)
    assert float(first[1].get("y", "")) < float(first[0].get("y", ""))
    assert "time (s)" in said(figure)


def test_files_are_linked_as_long_as_they_are_there(output: Path) -> None:
    histories.twelve_nights(output)
    web = page(output, "web")
    links = [unquote(each.get("href", "")) for each in web.all("a")]
    assert links.count("../index.html") == 1
    files = [link for link in links if link != "../index.html"]
    build = histories.build_name(histories.DAYS - 1)
    assert {f"{build}/manifest.json", f"{build}/build.log", f"{build}/junit-guest-night-web.xml"} <= set(files)
    for link in files:
        assert (output / "web" / link).is_file()
    store = Store(output)
    store.delete(store.builds("web")[-1])
    assert not [each for each in page(output, "web").all("a") if build in each.get("href", "")]


def test_the_log_of_a_build_that_failed_is_linked_while_it_is_the_last(output: Path) -> None:
    nights = histories.twelve_nights(output)
    history = History(output / "web" / "history.jsonl")
    log = Store(output).failed_log("web")
    log.parent.mkdir()
    log.write_text("E: no such package\n")
    assert "failed/build.log" not in [each.get("href") for each in page(output, "web").all("a")]
    later = {
        "time": "2026-11-13T02:00:00Z",
        "artifact": "",
        "stages": (),
        "failure": histories.failure(Phase.BUILD, "apt"),
    }
    history.append(nights[-1].model_copy(update=later))
    assert "failed/build.log" in [each.get("href") for each in page(output, "web").all("a")]


def test_none_and_one_night_are_histories_too(output: Path) -> None:
    output.mkdir()
    assert "No recipe has been built here yet." in page(output).texts("p")
    histories.good(output, "one", nights=1)
    assert "1 recipe: 1 good." in page(output).texts("p")
    made(output, "none", histories.build_name(0))
    assert "No nightly run has been recorded yet." in page(output, "none").texts("p")
    one = page(output, "one")
    assert len(one.all("figure")) == 3
    assert [row[1] for row in one.rows("nights")] == ["▲ promoted"]
    nothing = History(output / "unbuilt" / "history.jsonl")
    nothing.append(histories.night("unbuilt", histories.MIRROR, None))
    unbuilt = page(output, "unbuilt")
    assert "No run was good yet." in unbuilt.texts("p")
    assert not unbuilt.all("figure")


def test_whatever_others_wrote_is_text(output: Path) -> None:
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
        texts.append(said(shown.root))
    assert "<script>pwned=1</script>" in texts[1]
    assert "<script>pwned=4<" in texts[0]


def test_what_stands_in_attributes_is_plain_too() -> None:
    made = element("p", "a\x1b[31m\nb", title="a\x1b[31m\n\u202eb", class_=None, data_x=1.50)
    assert ET.tostring(made, encoding="unicode") == '<p title="a b" data-x="1.5">a\nb</p>'


def test_a_record_that_names_another_recipes_build_links_nothing(output: Path) -> None:
    histories.good(output, "db")
    nights = histories.twelve_nights(output)
    (output / "web" / "link").symlink_to(histories.build_name(histories.DAYS - 1))
    for artifact in (f"db/{histories.build_name(0)}", "web/golden", "web/link", "web/..", "web/", "/etc"):
        History(output / "web" / "history.jsonl").append(nights[-1].model_copy(update={"artifact": artifact}))
        newest = page(output, "web").all("table", "nights")[0].find("tbody/tr")
        assert newest is not None
        assert not list(newest.iter("a"))


def test_a_page_stays_what_it_was_where_it_cannot_be_written(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories.good(output)
    pages.write(output, NOW)
    before = {path: path.read_text() for path in output.rglob("index.html")}
    write = Path.write_text

    def full(self: Path, text: str, encoding: str) -> int:
        write(self, text[:100], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(VirtrootError, match="No space left on device"):
        pages.write(output, NOW + timedelta(days=1))
    assert {path: path.read_text() for path in output.rglob("*index.html*")} == before


def test_a_history_that_cannot_be_read_hides_no_other(output: Path) -> None:
    histories.good(output)
    (output / "odd" / "history.jsonl").mkdir(parents=True)
    with (output / "db" / "history.jsonl").open("a") as file:
        file.write('{"recipe": "db", "time": "yesterday"}\n{"time": "2026-11-04T02:00:00+09:00"}\ntorn')
    assert [row[:2] for row in page(output).rows("recipes")] == [["db", "✓ good"], ["odd", "? unknown"]]
    assert "Is a directory" in page(output).rows("recipes")[1][3]
    assert "Is a directory" in " ".join(page(output, "odd").texts("dd"))


def test_odd_times_and_numbers_are_shown_too(output: Path) -> None:
    history, first = History(output / "web" / "history.jsonl"), histories.night("web", 0, None)
    odd = {"boot_seconds": 5e-324, "stages": (StageTime(name="base", seconds=5e-324),), "packed_size": 0}
    for time in ("9999-12-31T23:59:59Z", "2026-11-01T02:00:00Z", "0001-01-01T00:00:00Z"):
        history.append(first.model_copy(update={"time": time, **odd}))
    web = page(output, "web")
    assert len(web.rows("nights")) == 1
    assert len(web.all("figure")) == 3


def test_names_that_are_no_utf_8_are_linked_as_they_are(output: Path) -> None:
    histories.good(output, "db")
    histories.good(output, "mail")
    (output / "mail").rename(output / os.fsdecode(b"\xffmail"))
    build = Store(output).builds("db")[0].directory
    (build / os.fsdecode(b"junit-\xfe.xml")).touch()
    assert [each.get("href") for each in page(output).all("a")] == ["db/index.html", "%FFmail/index.html"]
    assert f"{build.name}/junit-%FE.xml" in [each.get("href") for each in Page(output / "db" / "index.html").all("a")]


def test_two_do_not_write_the_pages_at_once(output: Path) -> None:
    histories.good(output)
    with Store(output).lock("all", "report"), pytest.raises(VirtrootError, match="another task"):
        pages.write(output, NOW)


@pytest.mark.parametrize(
    ("largest", "unit", "ticks"),
    [
        (0.0, "s", [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.7, "s", [0, 0.2, 0.4, 0.6, 0.8]),
        (9.9, "s", [0, 2, 4, 6, 8, 10]),
        (34.0, "s", [0, 10, 20, 30, 40]),
        (600.0, "s", [0, 200, 400, 600]),
        (601.0, "min", [0, 5, 10, 15]),
        (1e9, "min", [0, 5e6, 1e7, 1.5e7, 2e7]),
    ],
)
def test_ticks_are_round_and_reach_the_top(largest: float, unit: str, ticks: list[float]) -> None:
    scale = axis.make_time_scale(largest)
    assert scale.unit == unit
    assert list(scale.ticks) == pytest.approx(ticks)
    assert scale.locate(largest) <= 1
    assert scale.top == pytest.approx(ticks[-1])


def test_sizes_are_in_units_that_people_know() -> None:
    assert axis.make_size_scale(253 << 20).unit == "MiB"
    assert axis.make_size_scale(253 << 20).format(253 << 20) == "253 MiB"
    assert list(axis.make_size_scale(3 << 30).ticks) == [0, 1, 2, 3]
    assert axis.make_size_scale(0).unit == "KiB"


def test_a_calendar_knows_what_was_due() -> None:
    def on(*days: float) -> axis.Calendar:
        return axis.make_calendar([histories.FIRST + timedelta(days=day) for day in days])

    assert on(0, 1, 2, 5, 6).missing == (3, 4)
    weekly = on(0, 7, 14, 28, 35)
    assert weekly.missing == (21,)
    assert weekly.is_joined(0, 1)
    assert not weekly.is_joined(2, 3)
    # Those of one day share its place, and none is missing for that.
    twice = on(0, 1, 1.2, 2)
    assert [(slot.start, slot.width) for slot in twice.slots] == [(0, 1), (1, 0.5), (1.5, 0.5), (2, 1)]
    assert twice.missing == ()
    assert on(0).ticks() == [(0, "1 Nov")]
    assert len(on(*range(90)).ticks()) <= 9
    assert on(*range(28, 32)).ticks()[2:] == [(2, "1 Dec"), (3, "2 Dec")]
