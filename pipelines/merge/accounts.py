"""Merges the account files of two roots by name: passwd, group, shadow, gshadow, subuid and subgid.

A whole file of one root would lack the users of the other. The numbers of a name differ between roots, since packages
take the next free number. So names count: what a name owned, it owns afterwards, with the number that it has then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.merge import account_numbers, policy
from pipelines.merge.policy import Upgrade
from pipelines.text import split_lines

#: The files that are merged; they are in /etc.
FILES = tuple(path.removeprefix("etc/") for path in policy.select_by_upgrade(Upgrade.ACCOUNTS))

#: How many fields a line has, and which of them are lists of names.
_FIELDS = {"passwd": 7, "group": 4, "shadow": 9, "gshadow": 4}
_LISTS = {"group": (3,), "gshadow": (2, 3)}

#: The field with the number of a user or a group, and the field with a user's group.
_NUMBER, _GROUP = 2, 3

#: A file as a table: names to fields, in the order of the file.
Table = dict[str, list[str]]


@dataclass(frozen=True)
class Merged:
    """Hold the merged files by name, and which numbers of the guest's users and groups became which others."""

    files: dict[str, bytes]
    users: dict[int, int]
    groups: dict[int, int]


def merge(base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> Merged:
    """Merge account files by name.

    ``ours`` are the guest's files, ``theirs`` those of the new root, and ``base`` those that both began with. A name
    has the number of the new root if it is there. Otherwise it keeps the guest's number, or gets another if that is
    taken. Raises `VirtrootError` for invalid files.
    """
    tables = {
        side: {name: _parse(files.get(name, b""), name, of) for name in FILES}
        for side, (files, of) in {
            "base": (base, "the baseline of the guest"),
            "ours": (ours, "the guest"),
            "theirs": (theirs, "the new root"),
        }.items()
    }
    then, mine, new = tables["base"], tables["ours"], tables["theirs"]
    groups = _merge_and_number("group", then, mine, new)
    group_numbers = _list_renumbered(mine["group"], groups)
    users = _merge_and_number("passwd", then, mine, new)
    groups_then, groups_mine = (_map_numbers_to_first_names(tables["group"]) for tables in (then, mine))
    for name, fields in users.items():
        if name not in new["passwd"]:
            fields[_GROUP] = str(group_numbers.get(int(fields[_GROUP]), int(fields[_GROUP])))
        elif name in then["passwd"] and name in mine["passwd"]:
            group = groups_mine.get(int(mine["passwd"][name][_GROUP]), "")
            if group in groups and group != groups_then.get(int(then["passwd"][name][_GROUP]), ""):
                fields[_GROUP] = groups[group][_NUMBER]
    made = {"passwd": users, "group": groups}
    for name, of, numbered in (("shadow", users, "passwd"), ("gshadow", groups, "group")):
        merged = _merge_tables(name, then[name], mine[name], new[name], _list_system_names(new[numbered]))
        made[name] = {each: fields for each, fields in merged.items() if each in of}
    files = {name: _format(table) for name, table in made.items() if mine[name] or new[name]}
    for name in ("subuid", "subgid"):
        merged_ranges = account_numbers.merge_ranges(base.get(name, b""), ours.get(name, b""), theirs.get(name, b""))
        if merged_ranges:
            files[name] = merged_ranges
    user_numbers = _list_renumbered(mine["passwd"], users)
    return Merged(
        files,
        _drop_subordinate(user_numbers, ours.get("subuid", b"")),
        _drop_subordinate(group_numbers, ours.get("subgid", b"")),
    )


def _drop_subordinate(numbers: Mapping[int, int], ranges: bytes) -> dict[int, int]:
    """Return the numbers that change, without those that containers of the guest use; see subuid(5).

    A range may contain the number of a person, who then shares it with a container. That number follows the person.
    """
    given = [
        account_numbers.parse_range(line)
        for lines in account_numbers.group_lines_by_name(ranges).values()
        for line in lines
    ]
    return {
        old: new
        for old, new in numbers.items()
        if old < account_numbers.PEOPLE.stop or not any(first <= old < first + count for first, count in given)
    }


def map_numbers_to_names(text: bytes) -> dict[int, str]:
    """Return the names in the text of passwd or group by their numbers."""
    fields = (line.split(":") for line in split_lines(text.decode(errors="replace")))
    return {int(each[2]): each[0] for each in fields if len(each) > 2 and account_numbers.is_number(each[2])}


def _parse(text: bytes, name: str, of: str) -> Table:
    if name not in _FIELDS:
        return {}
    wrong = VirtrootError(f"/etc/{name} of {of} is not a valid account file", "check it with pwck or grpck, and fix it")
    if len(text) > account_numbers.MOST_BYTES:
        raise VirtrootError(
            f"/etc/{name} of {of} has more than {account_numbers.MOST_BYTES >> 20} MiB",
            "find out what wrote it, and make it shorter",
        )
    table: Table = {}
    for line in split_lines(text.decode(errors="surrogateescape")):
        fields = line.split(":")
        if not line or line.startswith("#"):
            continue
        numbers = fields[_NUMBER : _GROUP + 1] if name == "passwd" else fields[_NUMBER : _NUMBER + 1]
        if len(fields) != _FIELDS[name] or not _is_name(fields[0]) or "\0" in line:
            raise wrong
        if name in ("passwd", "group") and not all(map(account_numbers.is_number, numbers)):
            raise wrong
        table.setdefault(fields[0], fields)
    return table


def _is_name(text: str) -> bool:
    """Say whether ``text`` is not empty and valid UTF-8."""
    return bool(text) and not re.search("[\ud800-\udfff]", text)


def _format(table: Table) -> bytes:
    return "".join(f"{':'.join(fields)}\n" for fields in table.values()).encode(errors="surrogateescape")


def _merge_tables(name: str, then: Table, mine: Table, new: Table, back: AbstractSet[str]) -> Table:
    """Merge tables by name and field.

    What either side deleted is deleted, but the guest keeps names that the new root does not have. The names in
    ``back`` come back, although the guest deleted them.
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
            _merge_lists(*fields) if column in _LISTS.get(name, ()) else _merge_field(*fields)
            for column, fields in enumerate(columns)
        ]
    return found


def _list_system_names(table: Table) -> set[str]:
    """Return the names of system users or groups. Packages own them and do not run without them."""
    return {name for name, fields in table.items() if int(fields[_NUMBER]) < account_numbers.PEOPLE.start}


def _merge_field(before: str, mine: str, new: str) -> str:
    return new if mine == before else mine


def _merge_lists(before: str, mine: str, new: str) -> str:
    """Merge lists of names, in the order of the new root."""
    then, ours, theirs = ([each for each in text.split(",") if each] for text in (before, mine, new))
    had, has = {*then}, {*ours}
    kept = [each for each in theirs if each in has or each not in had]
    known = {*had, *kept}
    return ",".join([*kept, *(each for each in ours if each not in known)])


def _merge_and_number(
    name: str, then: Mapping[str, Table], mine: Mapping[str, Table], new: Mapping[str, Table]
) -> Table:
    """Merge users or groups. No two names share a number unless they do in the same root."""
    found = _merge_tables(name, then[name], mine[name], new[name], _list_system_names(new[name]))
    taken = {int(fields[_NUMBER]) for fields in new[name].values()}
    for each, fields in found.items():
        if each in new[name]:
            fields[_NUMBER] = new[name][each][_NUMBER]
            if name == "passwd":
                fields[_GROUP] = new[name][each][_GROUP]
    # Two names that share a number in the guest go on sharing one.
    twins = _map_numbers_to_first_names({other: fields for other, fields in mine[name].items() if other in new[name]})
    numbers = account_numbers.FreeNumbers({*taken, *(int(fields[_NUMBER]) for fields in mine[name].values())})
    given: dict[int, int] = {}
    for each, fields in found.items():
        if each in new[name]:
            continue
        number = int(fields[_NUMBER])
        if number not in given:
            if number in twins:
                given[number] = int(new[name][twins[number]][_NUMBER])
            else:
                given[number] = numbers.take(number) if number in taken else number
            taken.add(given[number])
        fields[_NUMBER] = str(given[number])
    return found


def _map_numbers_to_first_names(table: Table) -> dict[int, str]:
    """Return the first name of each number in a table of users or groups."""
    found: dict[int, str] = {}
    for name, fields in table.items():
        found.setdefault(int(fields[_NUMBER]), name)
    return found


def _list_renumbered(mine: Table, merged: Table) -> dict[int, int]:
    """Return which numbers of the guest are others after the merge; the first name of a number counts."""
    found: dict[int, int] = {}
    for name, fields in mine.items():
        if name in merged:
            found.setdefault(int(fields[_NUMBER]), int(merged[name][_NUMBER]))
    return {old: new for old, new in found.items() if old != new}
