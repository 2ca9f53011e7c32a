"""The difference between the packages of two builds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from pipelines.artifact import versions

#: Packages of kernels. Debian's have the version in their name, Arch's the kind of kernel.
_KERNEL = re.compile(r"linux(-image-.*|-(lts|zen|hardened|rt|rt-lts))?")

_SYSTEMD = re.compile(r"systemd(-.*)?")


class _Package(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


class Change(BaseModel):
    """A package with its version before and after; empty if it was not installed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    before: str = ""
    after: str = ""


class Difference(BaseModel):
    """Added, removed, upgraded and downgraded packages; kernel and systemd first, the others by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    upgraded: tuple[Change, ...] = ()
    downgraded: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.upgraded or self.downgraded)

    def kinds(self) -> list[tuple[Change, str]]:
        """Return all changes in order, each with its kind: ``added``, ``removed``, ``upgraded`` or ``downgraded``."""
        return sorted(
            ((change, kind) for kind, changes in self for change in changes), key=lambda each: _make_sort_key(each[0])
        )

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes, in order."""
        return tuple(change for change, _ in self.kinds())


def compare(before: Iterable[_Package], after: Iterable[_Package], distro: str) -> Difference:
    """Return the difference between the packages ``before`` and ``after``.

    Versions are compared as the package manager of ``distro`` does. If a package is installed several times, for
    example for two architectures, its versions are compared one by one.
    """
    then = Counter((package.name, package.version) for package in before)
    now = Counter((package.name, package.version) for package in after)
    gone, come = _group_by_name(then - now), _group_by_name(now - then)
    key = versions.make_sort_key(distro)
    return _classify(
        (
            Change(name=name, before=old, after=new)
            for name in {*gone, *come}
            for old, new in zip_longest(
                sorted(gone.get(name, ()), key=key), sorted(come.get(name, ()), key=key), fillvalue=""
            )
        ),
        distro,
    )


def join(differences: Sequence[Difference], distro: str) -> Difference:
    """Combine consecutive differences into one."""
    known: dict[str, tuple[str, str]] = {}
    for difference in differences:
        for change in difference.changes:
            first = known[change.name][0] if change.name in known else change.before
            known[change.name] = (first, change.after)
    return _classify(
        (Change(name=name, before=old, after=new) for name, (old, new) in known.items() if old != new), distro
    )


def _group_by_name(left: Counter[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in left.elements():
        found.setdefault(name, []).append(version)
    return found


def _classify(changes: Iterable[Change], distro: str) -> Difference:
    newer = versions.get_compare(distro)
    kinds: dict[str, list[Change]] = {"added": [], "removed": [], "upgraded": [], "downgraded": []}
    for change in changes:
        if not change.before or not change.after:
            kinds["removed" if change.before else "added"].append(change)
        else:
            # Versions that are equal but written differently (1.0 and 1.00) do not count as a downgrade.
            kinds["upgraded" if newer(change.before, change.after) <= 0 else "downgraded"].append(change)
    return Difference(**{kind: _sorted(found) for kind, found in kinds.items()})


def _sorted(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=_make_sort_key))


def _make_sort_key(change: Change) -> tuple[int, str, str, str]:
    rank = 0 if _KERNEL.fullmatch(change.name) else 1 if _SYSTEMD.fullmatch(change.name) else 2
    return rank, change.name, change.after, change.before
