"""The roots that a guest had before its upgrades, kept beside it in the pool until they are not wanted any more.

``POOL/former.GUEST/WHEN`` has the root as ``root``, and what it was made of in ``about``; see `switching`. ``failed``
beside them is the last root that the guest failed on, for whoever wants to know why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.guest import swap
from pipelines.guest.domain import RootSource
from pipelines.guest.guest import Guest
from pipelines.pool import place
from pipelines.target import durable, mounts
from pipelines.target.target import Target
from pipelines.text import split_lines

_WHEN = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_STAMP = "%Y%m%dT%H%M%SZ"

#: So many are kept: the last one, and the one before it.
KEPT = 2

#: Artifacts that this guest failed on, and the root that was made of the last of them.
_REFUSED, _FAILED = "refused", "failed"


@dataclass(frozen=True)
class Former:
    """A former root: its directory, when it was replaced (UTC), and what it was made of."""

    directory: str
    when: str
    made: RootSource

    @property
    def about(self) -> str:
        """The directory that says what it was made of."""
        return f"{self.directory}/about"

    @property
    def replaced(self) -> datetime:
        """When it was replaced."""
        return datetime.strptime(self.when, _STAMP).replace(tzinfo=UTC)


def every(guest: Guest) -> list[Former]:
    """Return the guest's former roots, the oldest first; what was half deleted is none."""
    directory = place.of_root(guest.root).formers
    script = 'cd -- "$1" 2> /dev/null || exit 0; for each in *; do [ ! -f "$each/about/made" ] || echo "$each"; done'
    listed = split_lines(guest.target.run(["sh", "-c", script, "formers", directory]).text)
    found = [each for each in sorted(listed) if _WHEN.fullmatch(each)]
    return [
        Former(f"{directory}/{each}", each, swap.described(guest.target, f"{directory}/{each}/about")) for each in found
    ]


def following(guest: Guest) -> str:
    """Return the directory for the root that is about to become the guest's newest former one.

    It is called after the time, and after all that are there, whatever the clock says.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    known = every(guest)
    if known:
        now = max(now, known[-1].replaced + timedelta(seconds=1))
    return f"{place.of_root(guest.root).formers}/{now.strftime(_STAMP)}"


def trees(target: Target, roots: Sequence[str]) -> list[list[str]]:
    """Return for each of the ``roots`` those that their guests had before; some may be no guest's place."""
    script = 'for each do for tree in "$each"/*/root; do if [ -d "$tree" ]; then echo "$tree"; fi; done; done'
    directories = [
        f"{pool}/former.{name.removeprefix('root.')}" for pool, _, name in (r.rpartition("/") for r in roots)
    ]
    listed = split_lines(target.run(["sh", "-c", script, "trees", *directories]).text)
    return [[tree for tree in listed if tree.startswith(f"{directory}/")] for directory in directories]


def failed(guest: Guest) -> str:
    """Return the directory of the root that the guest failed on; empty where there is none."""
    directory = f"{place.of_root(guest.root).formers}/{_FAILED}"
    return directory if guest.target.run(["test", "-d", directory], check=False).returncode == 0 else ""


def set_aside(guest: Guest, former: Former) -> None:
    """Make what lies in a former root's place the one that the guest failed on, instead of an earlier one."""
    paths, earlier = place.of_root(guest.root), failed(guest)
    hidden = f"{paths.partial_formers}-{_FAILED}"
    if earlier:
        # Somebody may look at it, and it is mounted for that; its name is wanted all the same.
        guest.target.run(["mv", "-T", "--", earlier, hidden])
    guest.target.run(["mv", "-T", "--", former.directory, f"{paths.formers}/{_FAILED}"])
    if earlier:
        mounts.delete(guest.target, hidden)


def forget(guest: Guest, kept: int = KEPT) -> None:
    """Delete the guest's former roots but the newest ``kept``; the caller holds its lock."""
    found = every(guest)
    delete(guest, [former.directory for former in (found[: len(found) - kept] if kept else found)])


def delete(guest: Guest, directories: Iterable[str]) -> None:
    """Delete some of the guest's former roots, given by their directories; the caller holds its lock."""
    # Without its name none is half there, whoever is killed meanwhile; the next task deletes what has none.
    hidden = {each: f"{place.of_root(guest.root).partial_formers}-{each.rpartition('/')[2]}" for each in directories}
    for directory, to in hidden.items():
        mounts.refuse(guest.target, directory)
        guest.target.run(["mv", "-T", "--", directory, to])
    mounts.delete(guest.target, *hidden.values())


def refused(guest: Guest) -> list[str]:
    """Return the artifacts that this guest was put on and failed on."""
    path = f"{place.of_root(guest.root).formers}/{_REFUSED}"
    return split_lines(guest.target.run(["cat", path], check=False).text)


def refuse(guest: Guest, artifact: str) -> None:
    """Note that the guest did not come up with ``artifact``, or that a check failed."""
    directory = place.of_root(guest.root).formers
    lines = "".join(f"{each}\n" for each in dict.fromkeys([*refused(guest), artifact]))
    guest.target.run(["mkdir", "-p", "-m", "0700", "--", directory])
    durable.put(guest.target, f"{directory}/{_REFUSED}", lines.encode(), 0o600)
