"""Plots of the report: their marks, gaps, axes and calendar."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.night.report import axis
from tests.support import histories
from tests.support.report_pages import get_text, output, write_page

__all__ = ["output"]


def heading(figure: ET.Element) -> str:
    return get_text(next(figure.iter("h3")))


def find_titles(element: ET.Element, tag: str, class_: str) -> Iterator[str]:
    """Yield the titles of the marks of a class in a plot."""
    for each in element.iter(tag):
        if class_ in each.get("class", "").split(" ") and len(each):
            yield get_text(each[0])


def test_plots_have_a_gap_where_a_run_is_missing(output: Path) -> None:
    histories.twelve_nights(output)
    web = write_page(output, "web")
    assert [heading(each) for each in web.all("figure")] == [
        "Build time by stage",
        "Boot time",
        "Size of the root",
    ]
    for each in web.all("figure"):
        gaps = [rect for rect in each.iter("rect") if rect.get("fill", "").startswith("url") and len(rect)]
        assert [get_text(gap) for gap in gaps] == ["no run"]
        left, right = float(gaps[0].get("x", "")), float(gaps[0].get("x", "")) + float(gaps[0].get("width", ""))
        for path in (path.get("d", "") for path in each.iter("path") if "line" in path.get("class", "")):
            ends = [float(number) for number in re.findall(r"[ML]([0-9.]+) ", path)]
            assert ends
            # No line crosses the gap: each piece is on one side of it.
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                assert end <= left or start >= right
        # Nor does one cross a run without a value: the fourth run built nothing, and those at the end did not boot.
        pieces = [path.get("d", "").count("M") for path in each.iter("path") if "line" in path.get("class", "")]
        assert pieces == {"Build time by stage": [], "Boot time": [4], "Size of the root": [7, 7]}[heading(each)]
        marks = list(find_titles(each, "path", "failed"))
        assert marks == [f"2026-11-{day:02} 02:00: failed" for day in (4, 10, 11, 12)]


def test_bars_are_as_high_as_their_times(output: Path) -> None:
    nights = histories.twelve_nights(output)
    figure = write_page(output, "web").figure("Build time by stage")
    bars = [rect for rect in figure.iter("rect") if rect.get("class", "").startswith("c") and len(rect)]
    built = [night for night in nights if night.stages]
    assert len(bars) == sum(len(night.stages) for night in built)
    ticks = [float(get_text(each)) for each in figure.iter("text") if not each.get("class")]
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
    first = [rect for rect in bars if get_text(rect).startswith("2026-11-01")]
    drawn = sum(float(rect.get("height", "")) for rect in first)
    assert drawn == pytest.approx((bottom - top) * sum(stage.seconds for stage in built[0].stages) / 40, abs=0.5)
    assert get_text(first[0]) == "2026-11-01 02:00: base 12 s"
    # The first stage stands on the axis, the next on the first.
    assert float(first[0].get("y", "")) + float(first[0].get("height", "")) == pytest.approx(bottom, abs=0.1)
    assert float(first[1].get("y", "")) < float(first[0].get("y", ""))
    assert "time (s)" in get_text(figure)


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


def test_sizes_have_binary_units() -> None:
    assert axis.make_size_scale(253 << 20).unit == "MiB"
    assert axis.make_size_scale(253 << 20).format(253 << 20) == "253 MiB"
    assert list(axis.make_size_scale(3 << 30).ticks) == [0, 1, 2, 3]
    assert axis.make_size_scale(0).unit == "KiB"


def test_a_calendar_finds_the_missing_runs() -> None:
    def on(*days: float) -> axis.Calendar:
        return axis.make_calendar([histories.FIRST + timedelta(days=day) for day in days])

    assert on(0, 1, 2, 5, 6).missing == (3, 4)
    weekly = on(0, 7, 14, 28, 35)
    assert weekly.missing == (21,)
    assert weekly.is_joined(0, 1)
    assert not weekly.is_joined(2, 3)
    # Several runs of one day share its place, and none is missing.
    twice = on(0, 1, 1.2, 2)
    assert [(slot.start, slot.width) for slot in twice.slots] == [(0, 1), (1, 0.5), (1.5, 0.5), (2, 1)]
    assert twice.missing == ()
    assert on(0).ticks() == [(0, "1 Nov")]
    assert len(on(*range(90)).ticks()) <= 9
    assert on(*range(28, 32)).ticks()[2:] == [(2, "1 Dec"), (3, "2 Dec")]
