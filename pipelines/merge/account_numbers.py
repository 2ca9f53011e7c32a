"""Numbers of users and groups: valid ones, free ones, and the ranges of subuid and subgid."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pipelines.errors import VirtrootError
from pipelines.text import split_lines

#: Files of accounts with more bytes are refused: a guest could make the merge take for ever.
MOST_BYTES = 1 << 20


#: Where a new number is taken from if a name's own is taken: one for the system, one for people.
_SYSTEM, PEOPLE = range(999, 99, -1), range(1000, 60_000)

#: Not a valid number: for chown(2) it means that the owner does not change.
_NO_ID = (1 << 32) - 1


def is_number(text: str) -> bool:
    """Say whether ``text`` is the number of a user or of a group."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(_NO_ID)) and int(text) < _NO_ID


class FreeNumbers:
    """Give out numbers that neither root uses, each one once.

    Each number is looked at once, however many are asked for.
    """

    def __init__(self, used: AbstractSet[int]) -> None:
        self._system, self._people = ((each for each in kind if each not in used) for kind in (_SYSTEM, PEOPLE))

    def take(self, number: int) -> int:
        """Return a free number: one for people where ``number`` is for people, else one for the system."""
        found = next(self._people if number in PEOPLE else self._system, None)
        if found is None:
            raise VirtrootError(
                f"no free number for an account that has {number}", "delete accounts that are not needed"
            )
        return found


def merge_ranges(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Merge the text of subuid or subgid, see subuid(5): a name has the guest's ranges if it has any there."""
    then, mine, new = (group_lines_by_name(text) for text in (base, ours, theirs))
    found = {}
    for name in (*new, *(known for known in mine if known not in new)):
        if name not in then or name in mine:
            found[name] = mine[name] if name in mine else new[name]
    # A name of the guest owns files by its numbers. Two names with the same numbers could read each other's files.
    lines = [line for name, each in found.items() if name in mine for line in each]
    taken = TakenRanges(parse_range(line) for line in lines)
    for name, each in found.items():
        for line in [] if name in mine else each:
            first, count = parse_range(line)
            if taken.overlaps(first, count):
                first = taken.end
                line = b"%s:%d:%d" % (name, first, count)
            taken.add(first, count)
            lines.append(line)
    return b"".join(line + b"\n" for line in lines)


class TakenRanges:
    """Hold the ranges that are taken, as sorted spans, so that a look-up is a binary search."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.end = 0
        for first, count in sorted(ranges):
            self.end = max(self.end, first + count)
            if self._ends and first < self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], first + count)
            elif count:
                self._starts.append(first)
                self._ends.append(first + count)

    def overlaps(self, first: int, count: int) -> bool:
        """Say whether a number of the range is taken."""
        before = bisect.bisect_left(self._starts, first + count)
        return before > 0 and self._ends[before - 1] > first

    def add(self, first: int, count: int) -> None:
        """Add a range that overlaps none."""
        self.end = max(self.end, first + count)
        if count:
            place = bisect.bisect_left(self._starts, first)
            self._starts.insert(place, first)
            self._ends.insert(place, first + count)


def parse_range(line: bytes) -> tuple[int, int]:
    """Return the first number of a line and how many there are; 0 and 0 for an invalid line."""
    fields = line.decode(errors="replace").split(":")[1:]
    first, count = fields if len(fields) == 2 and all(map(is_number, fields)) else ("0", "0")
    return int(first), int(count)


def group_lines_by_name(text: bytes) -> dict[bytes, list[bytes]]:
    """Return the lines of subuid or subgid by the name that they begin with."""
    found: dict[bytes, list[bytes]] = {}
    for line in split_lines(text[:MOST_BYTES]):
        name, colon, _ = line.partition(b":")
        if colon:
            found.setdefault(name, []).append(line)
    return found
