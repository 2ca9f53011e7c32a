"""When nights run: systemd's calendar events, and those of them that a crontab can say."""

from __future__ import annotations

import re

from pipelines.errors import VirtrootError
from pipelines.host import process

_HINT = "write it as systemd.time(7) says, like '*-*-* 03:00:00', daily or 'Mon..Fri 04:30'"

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")

#: Named events that a crontab can say, as the events that they stand for.
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


def checked(event: str) -> str:
    """Return ``event`` where systemd takes it and it comes again; raises `VirtrootError` otherwise."""
    environment = {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    answer = process.run(
        ["systemd-analyze", "calendar", "--", event], env=environment, check=False, timeout=30, limit=1 << 16
    )
    if answer.returncode:
        raise VirtrootError(f"--on-calendar {event!r}: systemd does not know such a time", _HINT, answer.complaint)
    if re.search(r"^\s*Next elapse: never$", answer.text, re.MULTILINE):
        raise VirtrootError(f"--on-calendar {event!r} never comes again", _HINT)
    return event


def as_cron(event: str) -> str:
    """Return a calendar event as the five fields of a crontab; raises `VirtrootError` where those cannot say it."""
    match = _EVENT.fullmatch(_NAMED.get(event.strip().lower(), event.strip()))
    if not match:
        raise VirtrootError(
            f"--on-calendar {event!r} cannot be said in a crontab, and no systemd runs here",
            "give a time of day like '*-*-* 03:00:00', with weekdays before it where wanted, or daily",
        )
    hour, minute = match["hour"], int(match["minute"])
    month, day = match["month"] or "*", match["day"] or "*"
    days = _weekdays(match["days"]) if match["days"] else "*"
    numbers = [(minute, 0, 59), *_number(hour, 0, 23), *_number(day, 1, 31), *_number(month, 1, 12)]
    if days == "" or any(not low <= number <= high for number, low, high in numbers):
        raise VirtrootError(f"--on-calendar {event!r} is no time", _HINT)
    if days != "*" and day != "*":
        raise VirtrootError(
            f"--on-calendar {event!r}: to cron, a weekday and a day of the month are one or the other", "give one"
        )
    return " ".join((str(minute), *(each if each == "*" else str(int(each)) for each in (hour, day, month)), days))


def _number(field: str, low: int, high: int) -> list[tuple[int, int, int]]:
    return [] if field == "*" else [(int(field), low, high)]


def _weekdays(text: str) -> str:
    """Return ``Mon..Fri`` or ``Sat,Sun`` as cron's numbers; empty for what is none."""
    numbers = []
    for part in text.split(","):
        ends = [day.capitalize() for day in part.split("..")]
        if len(ends) > 2 or not set(ends) <= set(_WEEKDAYS):
            return ""
        first, last = _WEEKDAYS.index(ends[0]), _WEEKDAYS.index(ends[-1])
        # systemd's week ends with Sunday, which cron takes as 7 too.
        last = 7 if last == 0 and len(ends) == 2 else last
        if last < first:
            return ""
        numbers.append(f"{first}-{last}" if len(ends) == 2 else str(first))
    return ",".join(numbers)
