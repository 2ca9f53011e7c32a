"""When nightly runs start: calendar events of systemd, and those of them that a crontab can express."""

from __future__ import annotations

import re

from pipelines.errors import VirtrootError
from pipelines.host import process

_HINT = "use the format of systemd.time(7), like '*-*-* 03:00:00', daily or 'Mon..Fri 04:30'"

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")

#: Named events that a crontab can express, and the events that they stand for.
_NAMED = {
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
}

_EVENT = re.compile(
    r"(?:(?P<days>[A-Za-z]{3}(?:(?:,|\.\.)[A-Za-z]{3})*)\s+)?"
    r"(?:\*-(?P<month>\*|\d{1,2})-(?P<day>\*|\d{1,2})\s+)?"
    r"(?P<hour>\*|\d{1,2}):(?P<minute>\d{1,2})(?::00?)?"
)


def check_event(event: str) -> str:
    """Return ``event`` if systemd accepts it and it recurs; raises `VirtrootError` otherwise."""
    environment = {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    answer = process.run(
        ["systemd-analyze", "calendar", "--", event], env=environment, check=False, timeout=30, limit=1 << 16
    )
    if answer.returncode:
        raise VirtrootError(f"--on-calendar {event!r}: invalid calendar event", _HINT, answer.complaint)
    if re.search(r"^\s*Next elapse: never$", answer.text, re.MULTILINE):
        raise VirtrootError(f"--on-calendar {event!r}: the event never recurs", _HINT)
    return event


def format_cron(event: str) -> str:
    """Return a calendar event as the five fields of a crontab; raises `VirtrootError` if they cannot express it."""
    match = _EVENT.fullmatch(_NAMED.get(event.strip().lower(), event.strip()))
    if not match:
        raise VirtrootError(
            f"--on-calendar {event!r}: a crontab cannot express this, and systemd is not running",
            "use a time of day like '*-*-* 03:00:00', optionally with weekdays before it, or daily",
        )
    hour, minute = match["hour"], int(match["minute"])
    month, day = match["month"] or "*", match["day"] or "*"
    days = _convert_weekdays(match["days"]) if match["days"] else "*"
    numbers = [(minute, 0, 59), *_make_limits(hour, 0, 23), *_make_limits(day, 1, 31), *_make_limits(month, 1, 12)]
    if days == "" or any(not low <= number <= high for number, low, high in numbers):
        raise VirtrootError(f"--on-calendar {event!r}: invalid time", _HINT)
    if days != "*" and day != "*":
        raise VirtrootError(
            f"--on-calendar {event!r}: cron runs if either the weekday or the day of the month matches",
            "use one of them",
        )
    return " ".join((str(minute), *(each if each == "*" else str(int(each)) for each in (hour, day, month)), days))


def _make_limits(field: str, low: int, high: int) -> list[tuple[int, int, int]]:
    return [] if field == "*" else [(int(field), low, high)]


def _convert_weekdays(text: str) -> str:
    """Return ``Mon..Fri`` or ``Sat,Sun`` as cron's numbers; empty if it is invalid."""
    numbers = []
    for part in text.split(","):
        ends = [day.capitalize() for day in part.split("..")]
        if len(ends) > 2 or not set(ends) <= set(_WEEKDAYS):
            return ""
        first, last = _WEEKDAYS.index(ends[0]), _WEEKDAYS.index(ends[-1])
        # systemd's week ends with Sunday, which cron also accepts as 7.
        last = 7 if last == 0 and len(ends) == 2 else last
        if last < first:
            return ""
        numbers.append(f"{first}-{last}" if len(ends) == 2 else str(first))
    return ",".join(numbers)
