"""What two builds of a recipe differ in: their packages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from pipelines.artifact import versions
from pipelines.artifact.manifest import Package

#: What people look for first: whether the kernel is another one, then systemd.
_FIRST = (re.compile(r"linux(-image-.*|-lts|-zen|-hardened|-rt)?"), re.compile(r"systemd|udev|libsystemd.*|libudev.*"))


class Change(BaseModel):
    """A package, and its version before and after; empty where it was not there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    before: str = ""
    after: str = ""


class Difference(BaseModel):
    """Packages that came, went or changed their version between two builds: kernel and systemd first, then by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    upgraded: tuple[Change, ...] = ()
    downgraded: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.upgraded or self.downgraded)


def compare(before: Iterable[Package], after: Iterable[Package], distro: str) -> Difference:
    """Compare the packages of two roots of ``distro``, whose package manager says which version is the newer one."""
    then, now = _versions(before), _versions(after)
    changes = [
        Change(name=name, before=then.get(name, ""), after=now.get(name, ""))
        for name in sorted(then.keys() | now.keys(), key=_rank)
        if then.get(name) != now.get(name)
    ]
    both = [(change, versions.compare(change.after, change.before, distro)) for change in changes]
    return Difference(
        added=tuple(change for change in changes if not change.before),
        removed=tuple(change for change in changes if not change.after),
        upgraded=tuple(change for change, order in both if change.before and change.after and order >= 0),
        downgraded=tuple(change for change, order in both if change.before and change.after and order < 0),
    )


def _versions(packages: Iterable[Package]) -> dict[str, str]:
    return {package.name: package.version for package in packages}


def _rank(name: str) -> tuple[int, str]:
    return next((place for place, names in enumerate(_FIRST) if names.fullmatch(name)), len(_FIRST)), name
