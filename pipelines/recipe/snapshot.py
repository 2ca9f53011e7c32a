"""Dated archives: where a distribution's packages are to be had as they were at a time."""

from __future__ import annotations

import string
from collections.abc import Mapping
from datetime import datetime

from pipelines.errors import VirtrootError
from pipelines.recipe.recipe import Recipe, Snapshot, mirror_address, snapshot_time

#: What must be filled in for the address to be a date's own; one of these.
_DATES = ({"time"}, {"year", "month", "day"})

#: What else an address must have, by distribution, and what for.
_NEEDED = {"debian": ("{archive}", "debian or debian-security"), "arch": ("$repo", "for pacman to fill in")}


def template(text: str, distro: str) -> str:
    """Validate the address of a distribution's dated archive; raises ValueError for one that names no date."""
    if not text:
        return text
    names = {
        f"{name}:{spec}" if spec else f"{name}!{conversion}" if conversion else name
        for _, name, spec, conversion in string.Formatter().parse(text)
        if name is not None
    }
    unknown = names - {"archive", *set().union(*_DATES)}
    if unknown:
        raise ValueError(f"{{{sorted(unknown)[0]}}} means nothing")
    if not any(date <= names for date in _DATES):
        raise ValueError("no place for the date: {time}, or {year}, {month} and {day}")
    needed, meaning = _NEEDED[distro]
    if needed not in text:
        raise ValueError(f"no {needed}: {meaning}")
    mirror_address(_filled(text, "20260101T000000Z", "debian"))
    return text


def resolve(recipe: Recipe, templates: Mapping[str, str], now: datetime) -> Recipe:
    """Return ``recipe`` with the addresses of its snapshot; one that has them, or no snapshot, stays as it is.

    ``templates`` has the address of each distribution's dated archive. Raises `VirtrootError` for a time after ``now``
    and where no archive is known.
    """
    snapshot = recipe.snapshot
    if snapshot is None:
        return recipe
    if snapshot_time(snapshot.time) > now:
        raise VirtrootError(
            f"snapshot: {snapshot.time} is in the future",
            f"give a time in UTC that has passed: it is {now:%Y%m%dT%H%M%SZ}",
        )
    if snapshot.mirror:
        return recipe
    address = templates.get(recipe.distro, "")
    if not address:
        setting = f"{recipe.distro}_snapshots"
        raise VirtrootError(
            f"snapshot: no dated archive of {recipe.distro} is known: the setting virtroot.{setting} is empty",
            f"put its address there, or into INVOKE_VIRTROOT_{setting.upper()}, like {_EXAMPLES[recipe.distro]}",
        )
    security = _filled(address, snapshot.time, "debian-security") if recipe.distro == "debian" else None
    found = Snapshot(time=snapshot.time, mirror=_filled(address, snapshot.time, "debian"), security_mirror=security)
    return recipe.model_copy(update={"snapshot": found})


_EXAMPLES = {
    "debian": "https://snapshots.example/archive/{archive}/{time}",
    "arch": "https://snapshots.example/repos/{year}/{month}/{day}/$repo/os/$arch",
}


def _filled(address: str, time: str, archive: str) -> str:
    moment = snapshot_time(time)
    return address.format(time=time, archive=archive, year=f"{moment:%Y}", month=f"{moment:%m}", day=f"{moment:%d}")
