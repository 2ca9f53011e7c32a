"""The account databases of a root, merged three ways and by name: passwd, group, shadow, gshadow, subuid and subgid.

A whole file of one side would hide the other side's users; numbers differ between roots, since packages take the next
one that is free. Names count: what a name owned, it owns afterwards, under the number that it has then.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.merge import policy
from pipelines.merge.policy import Upgrade
from pipelines.text import split_lines

#: The files that are merged, in /etc.
FILES = tuple(path.removeprefix("etc/") for path in policy.at_upgrade(Upgrade.ACCOUNTS))

#: How many fields a line has, and which of them are numbers and which lists of names.
_FIELDS = {"passwd": 7, "group": 4, "shadow": 9, "gshadow": 4}
_LISTS = {"group": (3,), "gshadow": (2, 3)}

#: Field of the number of users and of groups, and of a user's group.
_NUMBER, _GROUP = 2, 3

#: Where numbers are taken from for a name whose own is taken: those of the system, and those of people.
_SYSTEM, _PEOPLE = range(999, 99, -1), range(1000, 60_000)

#: See chown(2): to the kernel it stands for no number at all.
_NOBODYS = (1 << 32) - 1

#: Nobody has a longer one; more lines would take for ever.
_LONGEST = 1 << 20

#: Names to fields, in the order of the file.
Table = dict[str, list[str]]


@dataclass(frozen=True)
class Merged:
    """The merged files by name, and which numbers of the guest's users and groups became which others."""

    files: dict[str, bytes]
    users: dict[int, int]
    groups: dict[int, int]


def merge(base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> Merged:
    """Merge account files by name: ``ours`` is the guest's, ``theirs`` the new root's, ``base`` what both began as.

    A number is the new root's where it has that name, and else the guest's, or another where that is taken. Raises
    `VirtrootError` for files that are none.
    """
    tables = {
        side: {name: _parse(files.get(name, b""), name, of) for name in FILES}
        for side, (files, of) in {
            "base": (base, "the root that the guest was made of"),
            "ours": (ours, "the guest"),
            "theirs": (theirs, "the new root"),
        }.items()
    }
    then, mine, new = tables["base"], tables["ours"], tables["theirs"]
    groups = _numbered("group", then, mine, new)
    group_numbers = _renumbered(mine["group"], groups)
    users = _numbered("passwd", then, mine, new)
    groups_then, groups_mine = (_first_names(tables["group"]) for tables in (then, mine))
    for name, fields in users.items():
        if name not in new["passwd"]:
            fields[_GROUP] = str(group_numbers.get(int(fields[_GROUP]), int(fields[_GROUP])))
        elif name in then["passwd"] and name in mine["passwd"]:
            group = groups_mine.get(int(mine["passwd"][name][_GROUP]), "")
            if group in groups and group != groups_then.get(int(then["passwd"][name][_GROUP]), ""):
                fields[_GROUP] = groups[group][_NUMBER]
    made = {"passwd": users, "group": groups}
    for name, of, numbered in (("shadow", users, "passwd"), ("gshadow", groups, "group")):
        merged = _merged(name, then[name], mine[name], new[name], _systems(new[numbered]))
        made[name] = {each: fields for each, fields in merged.items() if each in of}
    files = {name: _text(table) for name, table in made.items() if mine[name] or new[name]}
    for name in ("subuid", "subgid"):
        merged_ranges = _ranges(base.get(name, b""), ours.get(name, b""), theirs.get(name, b""))
        if merged_ranges:
            files[name] = merged_ranges
    user_numbers = _renumbered(mine["passwd"], users)
    return Merged(
        files,
        _without_subordinate(user_numbers, ours.get("subuid", b"")),
        _without_subordinate(group_numbers, ours.get("subgid", b"")),
    )


def _without_subordinate(numbers: Mapping[int, int], ranges: bytes) -> dict[int, int]:
    """Return the numbers that change, but for those that containers of the guest's have: see subuid(5).

    A range may name a person's own number, too, which a container shares then; that one follows the person.
    """
    given = [_range(line) for lines in _by_name(ranges).values() for line in lines]
    return {
        old: new
        for old, new in numbers.items()
        if old < _PEOPLE.stop or not any(first <= old < first + count for first, count in given)
    }


def is_number(text: str) -> bool:
    """Say whether ``text`` is the number of a user or of a group."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(_NOBODYS)) and int(text) < _NOBODYS


def _parse(text: bytes, name: str, of: str) -> Table:
    if name not in _FIELDS:
        return {}
    wrong = VirtrootError(f"/etc/{name} of {of} is no account file", "look at it with pwck or grpck, and mend it first")
    if len(text) > _LONGEST:
        raise VirtrootError(
            f"/etc/{name} of {of} has more than {_LONGEST >> 20} MiB", "see what wrote it; nobody has so many accounts"
        )
    table: Table = {}
    for line in split_lines(text.decode(errors="surrogateescape")):
        fields = line.split(":")
        if not line or line.startswith("#"):
            continue
        numbers = fields[_NUMBER : _GROUP + 1] if name == "passwd" else fields[_NUMBER : _NUMBER + 1]
        if len(fields) != _FIELDS[name] or not _is_name(fields[0]) or "\0" in line:
            raise wrong
        if name in ("passwd", "group") and not all(map(is_number, numbers)):
            raise wrong
        table.setdefault(fields[0], fields)
    return table


def _is_name(text: str) -> bool:
    """Say whether ``text`` is not empty and has no bytes that are not UTF-8."""
    return bool(text) and not re.search("[\ud800-\udfff]", text)


def _text(table: Table) -> bytes:
    return "".join(f"{':'.join(fields)}\n" for fields in table.values()).encode(errors="surrogateescape")


def _merged(name: str, then: Table, mine: Table, new: Table, back: AbstractSet[str]) -> Table:
    """Merge tables by name and field; what either side took away is gone, what the new root lost the guest keeps.

    The names in ``back`` are there again, though the guest took them away.
    """
    found: Table = {}
    for each in (*new, *(known for known in mine if known not in new)):
        if each in then and each not in mine and each not in back:
            continue
        if each not in mine or each not in new:
            found[each] = list((mine if each in mine else new)[each])
            continue
        before = then.get(each, new[each])
        columns = zip(before, mine[each], new[each], strict=True)
        found[each] = [
            _lists(*fields) if column in _LISTS.get(name, ()) else _field(*fields)
            for column, fields in enumerate(columns)
        ]
    return found


def _systems(table: Table) -> set[str]:
    """Return the names of the system's own users or groups: of packages, without which those do not run."""
    return {name for name, fields in table.items() if int(fields[_NUMBER]) < _PEOPLE.start}


def _field(before: str, mine: str, new: str) -> str:
    return new if mine == before else mine


def _lists(before: str, mine: str, new: str) -> str:
    """Merge lists of names, in the new one's order."""
    then, ours, theirs = ([each for each in text.split(",") if each] for text in (before, mine, new))
    had, has = {*then}, {*ours}
    kept = [each for each in theirs if each in has or each not in had]
    known = {*had, *kept}
    return ",".join([*kept, *(each for each in ours if each not in known)])


def _numbered(name: str, then: Mapping[str, Table], mine: Mapping[str, Table], new: Mapping[str, Table]) -> Table:
    """Merge users or groups; no number is another name's that it was not already in the same root."""
    found = _merged(name, then[name], mine[name], new[name], _systems(new[name]))
    taken = {int(fields[_NUMBER]) for fields in new[name].values()}
    for each, fields in found.items():
        if each in new[name]:
            fields[_NUMBER] = new[name][each][_NUMBER]
            if name == "passwd":
                fields[_GROUP] = new[name][each][_GROUP]
    # Two names of one number in the guest stay one.
    twins = _first_names({other: fields for other, fields in mine[name].items() if other in new[name]})
    numbers = _Numbers({*taken, *(int(fields[_NUMBER]) for fields in mine[name].values())})
    given: dict[int, int] = {}
    for each, fields in found.items():
        if each in new[name]:
            continue
        number = int(fields[_NUMBER])
        if number not in given:
            if number in twins:
                given[number] = int(new[name][twins[number]][_NUMBER])
            else:
                given[number] = numbers.free(number) if number in taken else number
            taken.add(given[number])
        fields[_NUMBER] = str(given[number])
    return found


def _first_names(table: Table) -> dict[int, str]:
    """Return the first name of each number in a table of users or groups."""
    found: dict[int, str] = {}
    for name, fields in table.items():
        found.setdefault(int(fields[_NUMBER]), name)
    return found


class _Numbers:
    """The numbers that are on neither side; each is given once, so that each is looked at once."""

    def __init__(self, used: AbstractSet[int]) -> None:
        self._system, self._people = ((each for each in kind if each not in used) for kind in (_SYSTEM, _PEOPLE))

    def free(self, number: int) -> int:
        """Return a number that nobody has, of the kind that ``number`` is."""
        found = next(self._people if number in _PEOPLE else self._system, None)
        if found is None:
            raise VirtrootError(f"no number is left for what had {number}", "see who needs so many accounts")
        return found


def _renumbered(mine: Table, merged: Table) -> dict[int, int]:
    """Return which numbers of the guest are others in what was merged; of two names of one, the first counts."""
    found: dict[int, int] = {}
    for name, fields in mine.items():
        if name in merged:
            found.setdefault(int(fields[_NUMBER]), int(merged[name][_NUMBER]))
    return {old: new for old, new in found.items() if old != new}


def _ranges(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Merge subordinate numbers (see subuid(5)): a name's are the guest's where it has them there."""
    then, mine, new = (_by_name(text) for text in (base, ours, theirs))
    found = {}
    for name in (*new, *(known for known in mine if known not in new)):
        if name not in then or name in mine:
            found[name] = mine[name] if name in mine else new[name]
    # Whoever has them in the guest owns files by them; two with the same would read each other's.
    lines = [line for name, each in found.items() if name in mine for line in each]
    taken = _Taken(_range(line) for line in lines)
    for name, each in found.items():
        for line in [] if name in mine else each:
            first, count = _range(line)
            if taken.has(first, count):
                first = taken.end
                line = b"%s:%d:%d" % (name, first, count)
            taken.add(first, count)
            lines.append(line)
    return b"".join(line + b"\n" for line in lines)


class _Taken:
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


def _range(line: bytes) -> tuple[int, int]:
    """Return the first number of a line and how many there are; none of a line that is none."""
    fields = line.decode(errors="replace").split(":")[1:]
    first, count = fields if len(fields) == 2 and all(map(is_number, fields)) else ("0", "0")
    return int(first), int(count)


def _by_name(text: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in split_lines(text[:_LONGEST]):
        name, colon, _ = line.partition(b":")
        if colon:
            found.setdefault(name, []).append(line)
    return found
