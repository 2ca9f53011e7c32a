"""Plots of nights as SVG: every axis has its unit and begins at 0, and what was not measured is a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.night.report.axis import Calendar, Scale
from pipelines.night.report.html import Element, Node, add, element, scrolling

_WIDTH, _HEIGHT = 720, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 12, 664, 26, 206

#: Colours of the style sheet.
COLOURS = 8

#: Days that a plot has at least.
_LEAST = 7

#: Pixels that a bar may be wide.
_WIDEST = 34.0


@dataclass(frozen=True)
class Series:
    """What is plotted as one: a value for each night, None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Plot:
    """What all plots of a recipe share, and what this one is about; ``name`` is part of its ids."""

    name: str
    title: str
    quantity: str
    calendar: Calendar
    labels: Sequence[str]
    failed: Sequence[bool]

    def bars(self, series: Sequence[Series], scale: Scale) -> Element:
        """Return a figure with a bar for each night, of all series one on the other, the first at the bottom."""
        drawn = self._frame(scale)
        for place, slot in enumerate(self.calendar.slots):
            width = min(self._x(slot.width) - self._x(0), _WIDEST) * 0.8
            left, height = self._x(slot.middle) - width / 2, 0.0
            for number, each in enumerate(series):
                value = each.values[place]
                if value:
                    bottom, height = height, height + scale.share(value)
                    told = f"{self.labels[place]}: {each.name} {scale.write(value)}"
                    drawn.append(
                        element(
                            "rect",
                            element("title", told),
                            x=left,
                            y=self._y(height),
                            width=width,
                            height=max(self._y(bottom) - self._y(height), 0.5),
                            class_=_colour(number),
                        )
                    )
        return self._figure(drawn, series, scale, [_square(number) for number in range(len(series))])

    def lines(self, series: Sequence[Series], scale: Scale) -> Element:
        """Return a figure with a dot for each value, joined where no night between two is missing or without one."""
        drawn = self._frame(scale)
        for number, each in enumerate(series):
            points = [
                (self._x(slot.middle), self._y(scale.share(value)), place, value)
                for place, (slot, value) in enumerate(zip(self.calendar.slots, each.values, strict=True))
                if value is not None
            ]
            path = "".join(
                f"M{one[0]:.1f} {one[1]:.1f}L{other[0]:.1f} {other[1]:.1f}"
                for one, other in pairwise(points)
                if other[2] == one[2] + 1 and self.calendar.joined(one[2], other[2])
            )
            if path:
                drawn.append(element("path", d=path, class_=f"line {_colour(number)}"))
            for x, y, place, value in points:
                told = element("title", f"{self.labels[place]}: {each.name} {scale.write(value)}")
                drawn.append(_dot(number, x, y, told))
        return self._figure(drawn, series, scale, [_dot(number, 6, 6) for number in range(len(series))])

    def _frame(self, scale: Scale) -> Element:
        """Draw what is behind the values: grid, axes, nights that are missing and those that failed."""
        ids = f"{self.name}-title {self.name}-desc"
        svg = element("svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_labelledby=ids)
        hatch = element("pattern", id=f"{self.name}-gap", width=6, height=6, patternUnits="userSpaceOnUse")
        hatch.append(element("path", d="M0 6L6 0", class_="hatch"))
        add(
            svg,
            element("title", self.title, id=f"{self.name}-title"),
            element("desc", self._description(), id=f"{self.name}-desc"),
            element("defs", hatch),
            element("text", f"{self.quantity} ({scale.unit})", x=_WIDTH - 8, y=12, class_="end"),
        )
        for day in self.calendar.missing:
            left, right = self._x(day), self._x(day + 1)
            svg.append(
                element(
                    "rect",
                    element("title", "no night"),
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
            # On the right, where the newest nights are: a narrow window shows that end.
            svg.append(element("text", f"{tick:g}", x=_RIGHT + 6, y=y + 4))
        for day, text in self.calendar.ticks():
            x = self._x(day + 0.5)
            svg.append(element("path", d=f"M{x:.1f} {_BOTTOM}v5", class_="axis"))
            svg.append(element("text", text, x=x, y=_BOTTOM + 19, class_="middle"))
        svg.append(element("text", "night, by its beginning (UTC)", x=_RIGHT, y=_HEIGHT - 7, class_="end"))
        for place, slot in enumerate(self.calendar.slots):
            if self.failed[place]:
                x = self._x(slot.middle)
                mark = element("path", element("title", f"{self.labels[place]}: failed"), class_="failed")
                mark.set("d", f"M{x - 4:.1f} {_TOP - 9}l8 8m0 -8l-8 8")
                svg.append(mark)
        return svg

    def _figure(self, svg: Element, series: Sequence[Series], scale: Scale, marks: Sequence[Element]) -> Element:
        legend = []
        for mark, each in zip(marks, series, strict=True):
            last = next((value for value in reversed(each.values) if value is not None), None)
            told = f"{each.name}, last {scale.write(last)}" if last is not None else each.name
            legend.append(element("li", _icon(mark), told))
        if any(self.failed):
            mark = element("path", d="M2 2l8 8m0 -8l-8 8", class_="failed")
            legend.append(element("li", _icon(mark), "failed night"))
        if self.calendar.missing:
            # Patterns are found by id in the whole page.
            box = element("rect", width=12, height=12, fill=f"url(#{self.name}-gap)", class_="edge")
            legend.append(element("li", _icon(box), "no night"))
        caption = element("figcaption", element("h3", self.title), element("ul", *legend, class_="legend"))
        # Where it is wider than the page, the newest nights are what is seen first: the box begins at its right.
        return element("figure", caption, scrolling(self.title, svg, class_="scroll newest"))

    def _description(self) -> str:
        failed, missing = sum(self.failed), len(self.calendar.missing)
        told = f"{len(self.labels)} nights from {self.labels[0]} to {self.labels[-1]}; {failed} failed"
        return f"{told}, {missing} missing. The table of nights below has the numbers."

    def _x(self, day: float) -> float:
        # A few nights do not fill the plot with a bar each; the newest are always on the right.
        empty = max(_LEAST - self.calendar.days, 0)
        return _LEFT + (_RIGHT - _LEFT) * (empty + day) / (empty + self.calendar.days)

    def _y(self, share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * share


def _colour(number: int) -> str:
    return f"c{number % COLOURS + 1}"


def _dot(number: int, x: float, y: float, *children: Node) -> Element:
    """Draw a value; the shape tells series apart where colours do not."""
    if number % 2:
        return element("rect", *children, x=x - 3.2, y=y - 3.2, width=6.4, height=6.4, class_=_colour(number))
    return element("circle", *children, cx=x, cy=y, r=3.6, class_=_colour(number))


def _square(number: int) -> Element:
    return element("rect", width=12, height=12, class_=_colour(number))


def _icon(drawn: Element) -> Element:
    return element("svg", drawn, viewBox="0 0 12 12", class_="icon", aria_hidden="true")
