"""Plots of nightly runs as SVG: every axis has a unit and begins at 0, and a value that was not measured is a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.night.report.axis import Calendar, Scale
from pipelines.night.report.html import Element, Node, add, element, make_scrolling_box

_WIDTH, _HEIGHT = 720, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 12, 664, 26, 206

#: Number of colours in the style sheet.
COLOURS = 8

#: The least number of days in a plot.
_LEAST_DAYS = 7

#: The greatest width of a bar, in pixels.
_WIDEST_BAR = 34.0


@dataclass(frozen=True)
class Series:
    """A series of values: one for each run, None if there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Plot:
    """The title and the runs of a plot; ``name`` is part of the ids of its elements."""

    name: str
    title: str
    quantity: str
    calendar: Calendar
    labels: Sequence[str]
    failed: Sequence[bool]

    def draw_bars(self, series: Sequence[Series], scale: Scale) -> Element:
        """Return a figure with a stacked bar for each run, the first series at the bottom."""
        drawn = self._draw_frame(scale)
        for place, slot in enumerate(self.calendar.slots):
            width = min(self._x(slot.width) - self._x(0), _WIDEST_BAR) * 0.8
            left, height = self._x(slot.middle) - width / 2, 0.0
            for number, each in enumerate(series):
                value = each.values[place]
                if value:
                    bottom, height = height, height + scale.locate(value)
                    label = f"{self.labels[place]}: {each.name} {scale.format(value)}"
                    drawn.append(
                        element(
                            "rect",
                            element("title", label),
                            x=left,
                            y=self._y(height),
                            width=width,
                            height=max(self._y(bottom) - self._y(height), 0.5),
                            class_=_get_colour_class(number),
                        )
                    )
        return self._make_figure(drawn, series, scale, [_draw_square(number) for number in range(len(series))])

    def draw_lines(self, series: Sequence[Series], scale: Scale) -> Element:
        """Return a figure with a dot for each value; a line joins neighbours with no missing run between them."""
        drawn = self._draw_frame(scale)
        for number, each in enumerate(series):
            points = [
                (self._x(slot.middle), self._y(scale.locate(value)), place, value)
                for place, (slot, value) in enumerate(zip(self.calendar.slots, each.values, strict=True))
                if value is not None
            ]
            path = "".join(
                f"M{one[0]:.1f} {one[1]:.1f}L{other[0]:.1f} {other[1]:.1f}"
                for one, other in pairwise(points)
                if other[2] == one[2] + 1 and self.calendar.is_joined(one[2], other[2])
            )
            if path:
                drawn.append(element("path", d=path, class_=f"line {_get_colour_class(number)}"))
            for x, y, place, value in points:
                label = element("title", f"{self.labels[place]}: {each.name} {scale.format(value)}")
                drawn.append(_draw_dot(number, x, y, label))
        return self._make_figure(drawn, series, scale, [_draw_dot(number, 6, 6) for number in range(len(series))])

    def _draw_frame(self, scale: Scale) -> Element:
        """Draw the background: grid, axes, missing runs and failed ones."""
        ids = f"{self.name}-title {self.name}-desc"
        svg = element("svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_labelledby=ids)
        hatch = element("pattern", id=f"{self.name}-gap", width=6, height=6, patternUnits="userSpaceOnUse")
        hatch.append(element("path", d="M0 6L6 0", class_="hatch"))
        add(
            svg,
            element("title", self.title, id=f"{self.name}-title"),
            element("desc", self._describe(), id=f"{self.name}-desc"),
            element("defs", hatch),
            element("text", f"{self.quantity} ({scale.unit})", x=_WIDTH - 8, y=12, class_="end"),
        )
        for day in self.calendar.missing:
            left, right = self._x(day), self._x(day + 1)
            svg.append(
                element(
                    "rect",
                    element("title", "no run"),
                    x=left,
                    y=_TOP,
                    width=right - left,
                    height=_BOTTOM - _TOP,
                    fill=f"url(#{self.name}-gap)",
                )
            )
        for tick in scale.ticks:
            y = self._y(tick / scale.top)
            svg.append(element("path", d=f"M{_LEFT} {y:.1f}H{_RIGHT}", class_="grid" if tick else "axis"))
            # On the right, next to the newest runs: that is the end that a narrow window shows.
            svg.append(element("text", f"{tick:g}", x=_RIGHT + 6, y=y + 4))
        for day, text in self.calendar.ticks():
            x = self._x(day + 0.5)
            svg.append(element("path", d=f"M{x:.1f} {_BOTTOM}v5", class_="axis"))
            svg.append(element("text", text, x=x, y=_BOTTOM + 19, class_="middle"))
        svg.append(element("text", "nightly run, by its start (UTC)", x=_RIGHT, y=_HEIGHT - 7, class_="end"))
        for place, slot in enumerate(self.calendar.slots):
            if self.failed[place]:
                x = self._x(slot.middle)
                mark = element("path", element("title", f"{self.labels[place]}: failed"), class_="failed")
                mark.set("d", f"M{x - 4:.1f} {_TOP - 9}l8 8m0 -8l-8 8")
                svg.append(mark)
        return svg

    def _make_figure(self, svg: Element, series: Sequence[Series], scale: Scale, marks: Sequence[Element]) -> Element:
        legend = []
        for mark, each in zip(marks, series, strict=True):
            last = next((value for value in reversed(each.values) if value is not None), None)
            text = f"{each.name}, last {scale.format(last)}" if last is not None else each.name
            legend.append(element("li", _make_icon(mark), text))
        if any(self.failed):
            mark = element("path", d="M2 2l8 8m0 -8l-8 8", class_="failed")
            legend.append(element("li", _make_icon(mark), "failed run"))
        if self.calendar.missing:
            # The id of a pattern has to be unique in the whole page.
            box = element("rect", width=12, height=12, fill=f"url(#{self.name}-gap)", class_="edge")
            legend.append(element("li", _make_icon(box), "no run"))
        caption = element("figcaption", element("h3", self.title), element("ul", *legend, class_="legend"))
        # If the plot is wider than the page, the box is scrolled to the right first, where the newest runs are.
        return element("figure", caption, make_scrolling_box(self.title, svg, class_="scroll newest"))

    def _describe(self) -> str:
        failed, missing = sum(self.failed), len(self.calendar.missing)
        text = f"{len(self.labels)} runs from {self.labels[0]} to {self.labels[-1]}; {failed} failed"
        return f"{text}, {missing} missing. The table of runs below has the numbers."

    def _x(self, day: float) -> float:
        # With few runs, the bars do not fill the plot: the left stays empty, and the newest run is on the right.
        empty = max(_LEAST_DAYS - self.calendar.days, 0)
        return _LEFT + (_RIGHT - _LEFT) * (empty + day) / (empty + self.calendar.days)

    def _y(self, share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * share


def _get_colour_class(number: int) -> str:
    return f"c{number % COLOURS + 1}"


def _draw_dot(number: int, x: float, y: float, *children: Node) -> Element:
    """Draw a value; the shape distinguishes series without colours."""
    if number % 2:
        return element("rect", *children, x=x - 3.2, y=y - 3.2, width=6.4, height=6.4, class_=_get_colour_class(number))
    return element("circle", *children, cx=x, cy=y, r=3.6, class_=_get_colour_class(number))


def _draw_square(number: int) -> Element:
    return element("rect", width=12, height=12, class_=_get_colour_class(number))


def _make_icon(drawn: Element) -> Element:
    return element("svg", drawn, viewBox="0 0 12 12", class_="icon", aria_hidden="true")
