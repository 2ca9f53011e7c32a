"""Axes of plots: the positions of nightly runs in time, and round numbers for the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median_low

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: Possible numbers of days between two dates on an axis.
_STEPS = (1, 2, 7, 14, 28)

#: Values below this, in the unit of the axis, count as 0.
_LEAST = 1e-6


@dataclass(frozen=True)
class Slot:
    """The position of a run in the calendar: start and width, in days from the calendar's first day."""

    start: float
    width: float

    @property
    def middle(self) -> float:
        """The middle of the slot."""
        return self.start + self.width / 2


@dataclass(frozen=True)
class Calendar:
    """A range of days in UTC and the runs in it; ``interval`` is the usual number of days between two runs."""

    first: date
    days: int
    slots: tuple[Slot, ...]
    interval: int

    @property
    def missing(self) -> tuple[int, ...]:
        """The days on which a run was due but did not take place, counted from the first day."""
        taken = sorted({int(slot.start) for slot in self.slots})
        return tuple(
            day
            for before, after in pairwise(taken)
            for day in range(before + self.interval, after - self.interval // 2, self.interval)
        )

    def is_joined(self, one: int, other: int) -> bool:
        """Return whether no run is missing between the runs ``one`` and ``other``, given as indexes of ``slots``."""
        between = range(int(self.slots[one].start), int(self.slots[other].start))
        return not any(day in between for day in self.missing)

    def ticks(self, most: int = 9) -> list[tuple[int, str]]:
        """Return at most ``most`` days to label on the axis, with their labels, like ``5 Nov``."""
        step = next((step for step in _STEPS if self.days <= step * most), math.ceil(self.days / most))
        return [(day, format_day(self.first + timedelta(days=day))) for day in range(0, self.days, step)]


def make_calendar(times: Sequence[datetime]) -> Calendar:
    """Return the calendar of runs that began at ``times``, in order; runs on the same day share the day's slot."""
    days = [time.date() for time in times]
    first = days[0]
    slots = [
        Slot((day - first).days + days[:place].count(day) / days.count(day), 1 / days.count(day))
        for place, day in enumerate(days)
    ]
    distinct = sorted(set(days))
    apart = [(after - before).days for before, after in pairwise(distinct)]
    return Calendar(first, (days[-1] - first).days + 1, tuple(slots), median_low(apart) if apart else 1)


def format_day(day: date) -> str:
    """Return the label of a day on an axis."""
    return f"{day.day} {_MONTHS[day.month - 1]}"


@dataclass(frozen=True)
class Scale:
    """Numbers from 0 to ``top`` in a ``unit`` of ``factor`` times that of the values; ``ticks`` are round numbers."""

    unit: str
    factor: float
    top: float
    ticks: tuple[float, ...]

    def locate(self, value: float) -> float:
        """Return the position of a value: 0 at the bottom, 1 at the top."""
        return value / self.factor / self.top

    def format(self, value: float) -> str:
        """Return a value as text with its unit."""
        amount = value / self.factor
        return f"{amount:.{1 if amount < 10 else 0}f} {self.unit}"


def make_time_scale(largest: float) -> Scale:
    """Return the scale for times up to ``largest`` seconds."""
    return _make_scale(largest, ("min", 60) if largest > 600 else ("s", 1))


def make_size_scale(largest: float) -> Scale:
    """Return the scale for sizes up to ``largest`` bytes."""
    units = (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30))
    return _make_scale(largest, next((unit for unit in reversed(units) if largest >= unit[1]), units[0]))


def _make_scale(largest: float, unit: tuple[str, float]) -> Scale:
    name, factor = unit
    # Values near 0 have no round fractions.
    amount = largest / factor if largest / factor > _LEAST else 1.0
    power = 10.0 ** math.floor(math.log10(amount / 4))
    step = next(size * power for size in (1, 2, 5, 10) if size * power * 5 >= amount)
    count = math.ceil(amount / step - 1e-9)
    return Scale(name, factor, step * count, tuple(step * number for number in range(count + 1)))
