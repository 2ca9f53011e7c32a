"""Dated archives: servers with a distribution's packages as they were at a past time."""

from __future__ import annotations

import string
from collections.abc import Mapping
from datetime import datetime

from pipelines.errors import VirtrootError
from pipelines.recipe.recipe import Recipe, Snapshot, normalize_mirror, parse_snapshot_time

#: The fields for a date; an address needs all fields of one of these sets.
_DATE_FIELDS = ({"time"}, {"year", "month", "day"})

#: What else an address must contain, by distribution, and its meaning.
_NEEDED = {"debian": ("{archive}", "debian or debian-security"), "arch": ("$repo", "for pacman to fill in")}


def check_template(text: str, distro: str) -> str:
    """Check the address of a distribution's dated archive. Raises ValueError for an invalid one."""
    if not text:
        return text
    names = {
        f"{name}:{spec}" if spec else f"{name}!{conversion}" if conversion else name
        for _, name, spec, conversion in string.Formatter().parse(text)
        if name is not None
    }
    unknown = names - {"archive", *set().union(*_DATE_FIELDS)}
    if unknown:
        raise ValueError(f"unknown field {{{sorted(unknown)[0]}}}")
    if not any(date <= names for date in _DATE_FIELDS):
        raise ValueError("no field for the date: {time}, or {year}, {month} and {day}")
    needed, meaning = _NEEDED[distro]
    if needed not in text:
        raise ValueError(f"no {needed}: {meaning}")
    normalize_mirror(_fill_in(text, "20260101T000000Z", "debian"))
    return text


def resolve(recipe: Recipe, templates: Mapping[str, str], now: datetime) -> Recipe:
    """Return ``recipe`` with the addresses of its snapshot filled in, unless it has them or has no snapshot.

    ``templates`` has the address of each distribution's dated archive. Raises VirtrootError for a time after ``now``,
    and if the archive's address is not set.
    """
    snapshot = recipe.snapshot
    if snapshot is None:
        return recipe
    if parse_snapshot_time(snapshot.time) > now:
        raise VirtrootError(
            f"snapshot: {snapshot.time} is in the future",
            f"use a time in UTC before now, {now:%Y%m%dT%H%M%SZ}",
        )
    if snapshot.mirror:
        return recipe
    address = templates.get(recipe.distro, "")
    if not address:
        setting = f"{recipe.distro}_snapshots"
        raise VirtrootError(
            f"snapshot: no dated archive of {recipe.distro}: the setting virtroot.{setting} is empty",
            f"set it, or INVOKE_VIRTROOT_{setting.upper()}, to an address like {_EXAMPLES[recipe.distro]}",
        )
    security = _fill_in(address, snapshot.time, "debian-security") if recipe.distro == "debian" else None
    found = Snapshot(time=snapshot.time, mirror=_fill_in(address, snapshot.time, "debian"), security_mirror=security)
    return recipe.model_copy(update={"snapshot": found})


_EXAMPLES = {
    "debian": "https://snapshots.example/archive/{archive}/{time}",
    "arch": "https://snapshots.example/repos/{year}/{month}/{day}/$repo/os/$arch",
}


def _fill_in(address: str, time: str, archive: str) -> str:
    moment = parse_snapshot_time(time)
    return address.format(time=time, archive=archive, year=f"{moment:%Y}", month=f"{moment:%m}", day=f"{moment:%d}")
