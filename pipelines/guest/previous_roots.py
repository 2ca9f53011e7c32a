"""The roots that a guest had before its upgrades, kept in the pool.

``POOL/former.GUEST/WHEN`` contains the root as ``root``, and its description in ``about``; see `swap`. ``failed`` next
to them is the last root that the guest failed on, so that the user can find out why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.guest import swap
from pipelines.guest.guest import Guest
from pipelines.guest.root_source import RootSource
from pipelines.pool import place
from pipelines.target import durable, mounts
from pipelines.target.target import Target
from pipelines.text import split_lines

_WHEN = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_STAMP = "%Y%m%dT%H%M%SZ"

#: How many previous roots are kept.
KEPT = 2

#: The file with the artifacts that this guest failed on, and the directory with the root of the last of them.
_REFUSED, _FAILED = "refused", "failed"


@dataclass(frozen=True)
class PreviousRoot:
    """A previous root: its directory, the time when it was replaced (UTC), and what it was made from."""

    directory: str
    when: str
    source: RootSource

    @property
    def about(self) -> str:
        """The directory with its description."""
        return f"{self.directory}/about"

    @property
    def replaced(self) -> datetime:
        """The time when it was replaced."""
        return datetime.strptime(self.when, _STAMP).replace(tzinfo=UTC)


def list_previous(guest: Guest) -> list[PreviousRoot]:
    """Return the guest's previous roots, the oldest first. A root that is partly deleted does not count."""
    directory = place.of_root(guest.root).previous_roots
    script = 'cd -- "$1" 2> /dev/null || exit 0; for each in *; do [ ! -f "$each/about/made" ] || echo "$each"; done'
    listed = split_lines(guest.target.run(["sh", "-c", script, "formers", directory]).text)
    found = [each for each in sorted(listed) if _WHEN.fullmatch(each)]
    return [
        PreviousRoot(f"{directory}/{each}", each, swap.read_description(guest.target, f"{directory}/{each}/about"))
        for each in found
    ]


def choose_directory(guest: Guest) -> str:
    """Return the directory for the root that is about to become the guest's newest previous one.

    Its name is the time, or a later one if the clock is behind the name of an existing directory.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    known = list_previous(guest)
    if known:
        now = max(now, known[-1].replaced + timedelta(seconds=1))
    return f"{place.of_root(guest.root).previous_roots}/{now.strftime(_STAMP)}"


def list_trees(target: Target, roots: Sequence[str]) -> list[list[str]]:
    """Return for each of ``roots`` the previous roots of its guest; a root need not belong to a guest."""
    script = 'for each do for tree in "$each"/*/root; do if [ -d "$tree" ]; then echo "$tree"; fi; done; done'
    directories = [
        f"{pool}/former.{name.removeprefix('root.')}" for pool, _, name in (r.rpartition("/") for r in roots)
    ]
    listed = split_lines(target.run(["sh", "-c", script, "trees", *directories]).text)
    return [[tree for tree in listed if tree.startswith(f"{directory}/")] for directory in directories]


def find_failed(guest: Guest) -> str:
    """Return the directory of the root that the guest failed on; empty if there is none."""
    directory = f"{place.of_root(guest.root).previous_roots}/{_FAILED}"
    return directory if guest.target.run(["test", "-d", directory], check=False).returncode == 0 else ""


def keep_failed(guest: Guest, directory: str) -> None:
    """Make the root in the ``directory`` of a previous one the root that the guest failed on; delete an earlier one."""
    paths, earlier = place.of_root(guest.root), find_failed(guest)
    hidden = f"{paths.partial_previous_roots}-{_FAILED}"
    if earlier:
        # A user may have mounted it to look at it. The name is freed in any case.
        guest.target.run(["mv", "-T", "--", earlier, hidden])
    guest.target.run(["mv", "-T", "--", directory, f"{paths.previous_roots}/{_FAILED}"])
    if earlier:
        mounts.delete(guest.target, hidden)


def delete_old(guest: Guest, kept: int = KEPT) -> None:
    """Delete the guest's previous roots except the newest ``kept``; the caller holds its lock."""
    found = list_previous(guest)
    delete(guest, [previous.directory for previous in (found[: len(found) - kept] if kept else found)])


def delete(guest: Guest, directories: Iterable[str]) -> None:
    """Delete some of the guest's previous roots, given by their directories; the caller holds its lock."""
    # Renamed first: if this task is killed, no partly deleted root has a name, and the next task deletes the rest.
    hidden = {
        each: f"{place.of_root(guest.root).partial_previous_roots}-{each.rpartition('/')[2]}" for each in directories
    }
    for directory, to in hidden.items():
        mounts.refuse(guest.target, directory)
        guest.target.run(["mv", "-T", "--", directory, to])
    mounts.delete(guest.target, *hidden.values())


def list_refused(guest: Guest) -> list[str]:
    """Return the artifacts that this guest was upgraded to and failed on."""
    path = f"{place.of_root(guest.root).previous_roots}/{_REFUSED}"
    return split_lines(guest.target.run(["cat", path], check=False).text)


def record_refusal(guest: Guest, artifact: str) -> None:
    """Record that the guest did not come up with ``artifact``, or that a check failed."""
    directory = place.of_root(guest.root).previous_roots
    lines = "".join(f"{each}\n" for each in dict.fromkeys([*list_refused(guest), artifact]))
    guest.target.run(["mkdir", "-p", "-m", "0700", "--", directory])
    durable.put(guest.target, f"{directory}/{_REFUSED}", lines.encode(), 0o600)
