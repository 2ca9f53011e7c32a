"""Axes: where nights stand in time, and round numbers beside a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median_low

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: Days between two dates on an axis.
_STEPS = (1, 2, 7, 14, 28)

#: What is less, in the unit of its axis, is 0.
_LEAST = 1e-6


@dataclass(frozen=True)
class Slot:
    """The place of a night on the calendar: its beginning and width, in days from the calendar's first."""

    start: float
    width: float

    @property
    def middle(self) -> float:
        """The middle of the night's place."""
        return self.start + self.width / 2


@dataclass(frozen=True)
class Calendar:
    """Days in a row, of UTC, and the nights in them; ``interval`` is how many days nights are usually apart."""

    first: date
    days: int
    slots: tuple[Slot, ...]
    interval: int

    @property
    def missing(self) -> tuple[int, ...]:
        """The days on which a night was due and none was, counted from the first."""
        taken = sorted({int(slot.start) for slot in self.slots})
        return tuple(
            day
            for before, after in pairwise(taken)
            for day in range(before + self.interval, after - self.interval // 2, self.interval)
        )

    def joined(self, one: int, other: int) -> bool:
        """Say whether no night is missing between two, by their places in ``slots``."""
        between = range(int(self.slots[one].start), int(self.slots[other].start))
        return not any(day in between for day in self.missing)

    def ticks(self, most: int = 9) -> list[tuple[int, str]]:
        """Return days to be written on the axis, at most so many, and how: ``5 Nov``."""
        step = next((step for step in _STEPS if self.days <= step * most), math.ceil(self.days / most))
        return [(day, written(self.first + timedelta(days=day))) for day in range(0, self.days, step)]


def calendar(times: Sequence[datetime]) -> Calendar:
    """Return the calendar of nights that began at ``times``, in order; those of one day share its place."""
    days = [time.date() for time in times]
    first = days[0]
    slots = [
        Slot((day - first).days + days[:place].count(day) / days.count(day), 1 / days.count(day))
        for place, day in enumerate(days)
    ]
    distinct = sorted(set(days))
    apart = [(after - before).days for before, after in pairwise(distinct)]
    return Calendar(first, (days[-1] - first).days + 1, tuple(slots), median_low(apart) if apart else 1)


def written(day: date) -> str:
    """Write a day as it stands on an axis."""
    return f"{day.day} {_MONTHS[day.month - 1]}"


@dataclass(frozen=True)
class Scale:
    """Numbers from 0 to ``top`` of a ``unit``, which is ``factor`` of what is measured, and the round ones of them."""

    unit: str
    factor: float
    top: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Return where a measured value stands: 0 at the bottom, 1 at the top."""
        return value / self.factor / self.top

    def write(self, value: float) -> str:
        """Write a measured value, with its unit."""
        amount = value / self.factor
        return f"{amount:.{1 if amount < 10 else 0}f} {self.unit}"


def seconds(largest: float) -> Scale:
    """Return the scale for times up to ``largest`` seconds."""
    return _scale(largest, ("min", 60) if largest > 600 else ("s", 1))


def sizes(largest: float) -> Scale:
    """Return the scale for sizes up to ``largest`` bytes."""
    units = (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30))
    return _scale(largest, next((unit for unit in reversed(units) if largest >= unit[1]), units[0]))


def _scale(largest: float, unit: tuple[str, float]) -> Scale:
    name, factor = unit
    # Of next to nothing there are no round parts.
    amount = largest / factor if largest / factor > _LEAST else 1.0
    power = 10.0 ** math.floor(math.log10(amount / 4))
    step = next(size * power for size in (1, 2, 5, 10) if size * power * 5 >= amount)
    count = math.ceil(amount / step - 1e-9)
    return Scale(name, factor, step * count, tuple(step * number for number in range(count + 1)))
