"""Numbers of users and groups: which are valid and which are free, and the ranges of subuid and subgid."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pipelines.errors import VirtrootError
from pipelines.text import split_lines

#: Nobody has a longer one; more lines would take for ever.
LONGEST = 1 << 20


#: Where numbers are taken from for a name whose own is taken: those of the system, and those of people.
_SYSTEM, PEOPLE = range(999, 99, -1), range(1000, 60_000)

#: See chown(2): to the kernel it stands for no number at all.
_NOBODYS = (1 << 32) - 1


def is_number(text: str) -> bool:
    """Say whether ``text`` is the number of a user or of a group."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(_NOBODYS)) and int(text) < _NOBODYS


class Numbers:
    """The numbers that are on neither side; each is given once, so that each is looked at once."""

    def __init__(self, used: AbstractSet[int]) -> None:
        self._system, self._people = ((each for each in kind if each not in used) for kind in (_SYSTEM, PEOPLE))

    def free(self, number: int) -> int:
        """Return a number that nobody has, of the kind that ``number`` is."""
        found = next(self._people if number in PEOPLE else self._system, None)
        if found is None:
            raise VirtrootError(f"no number is left for what had {number}", "see who needs so many accounts")
        return found


def merge_ranges(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Merge subordinate numbers (see subuid(5)): a name's are the guest's where it has them there."""
    then, mine, new = (ranges_by_name(text) for text in (base, ours, theirs))
    found = {}
    for name in (*new, *(known for known in mine if known not in new)):
        if name not in then or name in mine:
            found[name] = mine[name] if name in mine else new[name]
    # Whoever has them in the guest owns files by them; two with the same would read each other's.
    lines = [line for name, each in found.items() if name in mine for line in each]
    taken = Taken(range_of(line) for line in lines)
    for name, each in found.items():
        for line in [] if name in mine else each:
            first, count = range_of(line)
            if taken.has(first, count):
                first = taken.end
                line = b"%s:%d:%d" % (name, first, count)
            taken.add(first, count)
            lines.append(line)
    return b"".join(line + b"\n" for line in lines)


class Taken:
    """Ranges of numbers as the sorted spans that they cover, so that each question is a search."""

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

    def has(self, first: int, count: int) -> bool:
        """Say whether the range has a number that is taken."""
        before = bisect.bisect_left(self._starts, first + count)
        return before > 0 and self._ends[before - 1] > first

    def add(self, first: int, count: int) -> None:
        """Add a range of which nothing is taken."""
        self.end = max(self.end, first + count)
        if count:
            place = bisect.bisect_left(self._starts, first)
            self._starts.insert(place, first)
            self._ends.insert(place, first + count)


def range_of(line: bytes) -> tuple[int, int]:
    """Return the first number of a line and how many there are; none of a line that is none."""
    fields = line.decode(errors="replace").split(":")[1:]
    first, count = fields if len(fields) == 2 and all(map(is_number, fields)) else ("0", "0")
    return int(first), int(count)


def ranges_by_name(text: bytes) -> dict[bytes, list[bytes]]:
    """Return the lines of subuid or subgid by the name that they begin with."""
    found: dict[bytes, list[bytes]] = {}
    for line in split_lines(text[:LONGEST]):
        name, colon, _ = line.partition(b":")
        if colon:
            found.setdefault(name, []).append(line)
    return found
