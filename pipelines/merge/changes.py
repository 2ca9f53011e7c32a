"""What a guest changed since its root was built: packages, accounts, /etc, and files that no package has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.merge import entry_changes, paths, policy
from pipelines.merge.baselines import Configured, Inventory, Unowned
from pipelines.merge.policy import Diff
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.text import split_lines, trim

Kind = Literal["added", "removed", "changed"]

#: Directories that are ignored while they are empty.
_IGNORED_EMPTY = policy.select_by_diff(Diff.IGNORE_EMPTY)

#: Directories in which links to files of packages are ignored.
_PACKAGE_LINKS = tuple(f"{path}/" for path in policy.select_by_diff(Diff.IGNORE_PACKAGE_LINKS))

_BUILD_NAME = BUILD_NAME.encode()

#: The account databases, which are compared name by name.
_ACCOUNTS = {"etc/passwd": "user", "etc/group": "group"}
_HIDDEN = policy.select_by_diff(Diff.PASSWORDS, Diff.HIDE)


@dataclass(frozen=True)
class Changed:
    """Describe one change: its kind, the path or the account, and in words what changed.

    ``size`` is in bytes. A tree that was added has ``entries`` below it.
    """

    kind: Kind
    name: str
    what: str = ""
    size: int | None = None
    entries: int | None = None


@dataclass(frozen=True)
class Changes:
    """Hold all that a guest changed, each part sorted.

    ``files`` are those outside /etc that no package has. ``edited`` are files of packages outside /etc whose content is
    not the package's. ``altered`` are other entries of packages outside /etc: deleted ones, links that lead elsewhere,
    and those with another owner or mode.
    """

    packages: Difference
    accounts: tuple[Changed, ...] = ()
    etc: tuple[Changed, ...] = ()
    files: tuple[Changed, ...] = ()
    edited: tuple[str, ...] = field(default=())
    altered: tuple[Changed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.packages or self.accounts or self.etc or self.files or self.edited or self.altered)


def compare_inventories(base: Inventory, now: Inventory, distro: str, points: Iterable[str] = ()) -> Changes:
    """Return the changes from ``base`` to ``now``, two inventories of one guest's root.

    ``distro`` decides how versions are ordered. ``points`` are the paths at which the guest mounts its shares: virtroot
    made these directories, so they are not changes of the guest.
    """
    shared = {each for point in points for each in paths.walk_up(point.strip("/"))}
    return Changes(
        packages=compare(base.packages, now.packages, distro),
        accounts=tuple(_compare_accounts(base, now)),
        etc=tuple(_compare_etc(base, now)),
        files=tuple(
            each
            for each in _compare_files(base.unowned, now.unowned, now.etc)
            if not (
                each.kind == "added" and each.name in {*shared, *_IGNORED_EMPTY} and now.unowned[each.name].files == 0
            )
        ),
        edited=tuple(sorted({*now.edited} - {*base.edited})),
        altered=tuple(_compare_owned(base, now)),
    )


def _compare_accounts(base: Inventory, now: Inventory) -> Iterator[Changed]:
    """Yield the users and groups that changed, and the users whose password changed."""
    for path, word in _ACCOUNTS.items():
        then, today = (_parse_accounts(inventory.contents.get(path, b"")) for inventory in (base, now))
        for name in sorted({*then, *today}):
            if name not in then:
                yield Changed("added", f"{word} {name}", f"number {_format_number(today[name])}")
            elif name not in today:
                yield Changed("removed", f"{word} {name}")
            elif then[name] != today[name]:
                yield Changed(
                    "changed", f"{word} {name}", ", ".join(_list_changed_fields(word, then[name], today[name]))
                )
    then, today = (_parse_accounts(inventory.contents.get("etc/shadow", b"")) for inventory in (base, now))
    for name in sorted({*then} & {*today}):
        if then[name][1:2] != today[name][1:2]:
            yield Changed("changed", f"user {name}", "password")


def _parse_accounts(text: bytes) -> dict[str, list[str]]:
    """Return the fields of each line by the name that the line begins with."""
    lines = (line.split(":") for line in split_lines(text.decode(errors="replace")))
    return {fields[0]: fields for fields in lines if len(fields) > 1}


def _format_number(fields: list[str]) -> str:
    return fields[2] if len(fields) > 2 else "?"


def _list_changed_fields(word: str, then: list[str], today: list[str]) -> Iterator[str]:
    """Yield the names of the fields that changed in the line of a user or a group."""
    names = {
        "user": ("name", "password", "number", "group", "description", "home", "shell"),
        "group": ("name", "password", "number", "members"),
    }[word]
    for name, before, after in zip(names, then, today, strict=False):
        if before != after:
            yield name


def _compare_etc(base: Inventory, now: Inventory) -> Iterator[Changed]:
    """Yield the entries of /etc that the guest's user changed, and not a package."""
    added, removed = ({each.name for each in ours} - {each.name for each in theirs}
                  for ours, theirs in ((now.packages, base.packages), (base.packages, now.packages)))  # fmt: skip
    parents = {path.rpartition("/")[0] for path in now.etc}
    for path in sorted({*base.etc, *now.etc}):
        if path in _ACCOUNTS or path in _HIDDEN or paths.is_ignored(path) or _has_same_lines(path, base, now):
            continue
        then, today = base.etc.get(path), now.etc.get(path)
        if path.startswith(_PACKAGE_LINKS) and all(
            each is None or (each.kind == "link" and each.to) for each in (then, today)
        ):
            continue
        if then is None and today is not None:
            is_made = entry_changes.is_from_package(today, added) or (
                today.kind == "link" and today.content == policy.LINKS.get(path)
            )
            if not is_made and not (today.kind == "directory" and path in parents):
                yield Changed("added", path, size=_get_size(today))
        elif today is None and then is not None:
            if (
                not entry_changes.is_dropped_by_package(path, then, now)
                and then.package not in removed
                and then.to not in removed
            ):
                yield Changed("removed", path, size=_get_size(then))
        elif then and today and (what := entry_changes.describe_etc_change(then, today)):
            yield Changed("changed", path, what, size=_get_size(today))


def _get_size(entry: Configured) -> int | None:
    return entry.size if entry.kind == "file" else None


def _has_same_lines(path: str, base: Inventory, now: Inventory) -> bool:
    """Say whether a file is the same, except for what virtroot writes: lines of its own and the host name."""
    before, name = base.contents.get(path, b""), trim(now.contents.get("etc/hostname", b""))
    if _BUILD_NAME in before and before.replace(_BUILD_NAME, name) == now.contents.get(path):
        return True
    return path in policy.OWN_LINES and has_same_other_lines(path, base, now)


def has_only_own_lines(path: str, now: Inventory) -> bool:
    """Say whether a file has no lines but those that virtroot writes."""
    ours, content = policy.OWN_LINES.get(path), now.contents.get(path)
    return ours is not None and content is not None and all(map(ours.fullmatch, split_lines(content)))


def has_same_other_lines(path: str, one: Inventory, other: Inventory) -> bool:
    """Say whether a file that virtroot writes to has the same other lines in both inventories.

    A file that is missing has no lines.
    """
    ours = policy.OWN_LINES[path]
    kept = [
        [line for line in split_lines(inventory.contents.get(path, b"")) if not ours.fullmatch(line)]
        for inventory in (one, other)
    ]
    return kept[0] == kept[1]


def _compare_files(
    base: Mapping[str, Unowned], now: Mapping[str, Unowned], etc: Mapping[str, Configured]
) -> Iterator[Changed]:
    """Yield the entries outside /etc that no package has and that changed."""
    for path in sorted({*base, *now}):
        then, today = base.get(path), now.get(path)
        if paths.is_ignored(path) or _is_alternative(then, today, etc):
            continue
        if then is None and today is not None:
            tree = today.kind == "tree"
            yield Changed("added", path, "directory" if tree else "", today.size, today.entries if tree else None)
        elif today is None and then is not None:
            if path.rpartition("/")[0] not in base or path.rpartition("/")[0] in now:
                yield Changed("removed", path, size=then.size)
        elif then and today and (what := entry_changes.describe_change(then, today)):
            yield Changed("changed", path, what, size=today.size, entries=today.entries or None)


def _is_alternative(then: Unowned | None, today: Unowned | None, etc: Mapping[str, Configured]) -> bool:
    """Say whether an entry is and was a link of update-alternatives to a program of a package."""
    entries = [entry for entry in (then, today) if entry is not None]
    known = [entry.content for entry in entries if entry.content]
    if not (known and all(entry.kind == "link" for entry in entries)):
        return False
    if not all(content.startswith("/etc/alternatives/") for content in known):
        return False
    if today is None:
        return True
    program = etc.get(today.content.lstrip("/"))
    # A link that was not read is unchanged: a changed one has a later time and is read.
    return bool(today.content) and (then is not None or (program is not None and bool(program.to)))


def _compare_owned(base: Inventory, now: Inventory) -> Iterator[Changed]:
    """Yield the entries of packages that the guest's user deleted or altered.

    Where the package has another version now, its differences are not changes of the user and are left out.
    """
    if base.owned is None or now.owned is None or base.missing is None or now.missing is None:
        return
    versions = [{package.name: package.version for package in inventory.packages} for inventory in (base, now)]

    def is_same(package: str) -> bool:
        then, today = (known.get(package) for known in versions)
        return then is not None and then == today

    for path in sorted({*base.owned, *now.owned, *now.missing}):
        then, today = base.owned.get(path), now.owned.get(path)
        if paths.is_ignored(path) or path.startswith("etc/"):
            continue
        if path in now.missing:
            parent = path.rpartition("/")[0]
            is_deleted = path not in base.missing and is_same(now.missing[path])
            if is_deleted and parent not in now.missing and not _is_below_link(parent, now.owned):
                yield Changed("removed", path)
        elif then is None and today and today.kind == "link":
            known = today.content and not today.to and today.package in versions[0]
            if known or is_same(today.package):
                yield Changed("changed", path, f"leads to {today.content}" if today.content else "is a link")
        elif is_same((today or then or entry_changes.PLAIN).package) and (
            what := entry_changes.describe_owned_change(then or entry_changes.PLAIN, today or entry_changes.PLAIN)
        ):
            yield Changed("changed", path, what)


def _is_below_link(path: str, owned: Mapping[str, Configured]) -> bool:
    return any(each in owned and owned[each].kind == "link" for each in paths.walk_up(path))
