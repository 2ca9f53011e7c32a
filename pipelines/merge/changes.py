"""What a guest has changed since it was made: packages, accounts, /etc, and files that no package has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.merge import entry_changes, paths, policy
from pipelines.merge.baselines import Configured, Survey, Unowned
from pipelines.merge.policy import Diff
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.text import split_lines, trim

Kind = Literal["added", "removed", "changed"]


#: Directories that are ignored while they are empty.
_MADE_EMPTY = policy.at_diff(Diff.IGNORE_EMPTY)

#: Directories in which links to files of packages are ignored.
_PACKAGE_LINKS = tuple(f"{path}/" for path in policy.at_diff(Diff.IGNORE_PACKAGE_LINKS))

_BUILD_NAME = BUILD_NAME.encode()

#: The account databases, which are compared name by name.
_ACCOUNTS = {"etc/passwd": "user", "etc/group": "group"}
_HIDDEN = policy.at_diff(Diff.PASSWORDS, Diff.HIDE)


@dataclass(frozen=True)
class Changed:
    """One thing that came, went or is otherwise: an account's name or a path; ``what`` says in words what of it.

    ``size`` is in bytes; a tree that came has ``entries`` below it.
    """

    kind: Kind
    name: str
    what: str = ""
    size: int | None = None
    entries: int | None = None


@dataclass(frozen=True)
class Changes:
    """All that a guest has changed, each part sorted; ``files`` are those that no package has, outside /etc.

    ``edited`` are files of packages outside /etc that are not what the package brought; ``altered`` is what packages
    have there that went, that leads elsewhere, or whose owners or mode are others.
    """

    packages: Difference
    accounts: tuple[Changed, ...] = ()
    etc: tuple[Changed, ...] = ()
    files: tuple[Changed, ...] = ()
    edited: tuple[str, ...] = field(default=())
    altered: tuple[Changed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.packages or self.accounts or self.etc or self.files or self.edited or self.altered)


def changes(base: Survey, now: Survey, distro: str, points: Iterable[str] = ()) -> Changes:
    """Return what ``now`` has otherwise than ``base``, both of one guest's root; ``distro`` orders versions.

    ``points`` are the paths where the guest has its shares, which virtroot made.
    """
    made = {each for point in points for each in paths.above(point.strip("/"))}
    return Changes(
        packages=compare(base.packages, now.packages, distro),
        accounts=tuple(_accounts(base, now)),
        etc=tuple(_etc(base, now)),
        files=tuple(
            each
            for each in _files(base.unowned, now.unowned, now.etc)
            if not (each.kind == "added" and each.name in {*made, *_MADE_EMPTY} and now.unowned[each.name].files == 0)
        ),
        edited=tuple(sorted({*now.edited} - {*base.edited})),
        altered=tuple(_altered(base, now)),
    )


def _accounts(base: Survey, now: Survey) -> Iterator[Changed]:
    for path, word in _ACCOUNTS.items():
        then, today = (_entries(survey.contents.get(path, b"")) for survey in (base, now))
        for name in sorted({*then, *today}):
            if name not in then:
                yield Changed("added", f"{word} {name}", f"number {_number(today[name])}")
            elif name not in today:
                yield Changed("removed", f"{word} {name}")
            elif then[name] != today[name]:
                yield Changed("changed", f"{word} {name}", ", ".join(_fields(word, then[name], today[name])))
    then, today = (_entries(survey.contents.get("etc/shadow", b"")) for survey in (base, now))
    for name in sorted({*then} & {*today}):
        if then[name][1:2] != today[name][1:2]:
            yield Changed("changed", f"user {name}", "password")


def _entries(text: bytes) -> dict[str, list[str]]:
    lines = (line.split(":") for line in split_lines(text.decode(errors="replace")))
    return {fields[0]: fields for fields in lines if len(fields) > 1}


def _number(fields: list[str]) -> str:
    return fields[2] if len(fields) > 2 else "?"


def _fields(word: str, then: list[str], today: list[str]) -> Iterator[str]:
    names = {
        "user": ("name", "password", "number", "group", "description", "home", "shell"),
        "group": ("name", "password", "number", "members"),
    }[word]
    for name, before, after in zip(names, then, today, strict=False):
        if before != after:
            yield name


def _etc(base: Survey, now: Survey) -> Iterator[Changed]:
    came, went = ({each.name for each in ours} - {each.name for each in theirs}
                  for ours, theirs in ((now.packages, base.packages), (base.packages, now.packages)))  # fmt: skip
    filled = {path.rpartition("/")[0] for path in now.etc}
    for path in sorted({*base.etc, *now.etc}):
        if path in _ACCOUNTS or path in _HIDDEN or paths.ignored(path) or _same_lines(path, base, now):
            continue
        then, today = base.etc.get(path), now.etc.get(path)
        if path.startswith(_PACKAGE_LINKS) and all(
            each is None or (each.kind == "link" and each.to) for each in (then, today)
        ):
            continue
        if then is None and today is not None:
            made = entry_changes.of_package(today, came) or (
                today.kind == "link" and today.content == policy.LINKS.get(path)
            )
            if not made and not (today.kind == "directory" and path in filled):
                yield Changed("added", path, size=_size(today))
        elif today is None and then is not None:
            if not entry_changes.dropped(path, then, now) and then.package not in went and then.to not in went:
                yield Changed("removed", path, size=_size(then))
        elif then and today and (what := entry_changes.differs(then, today)):
            yield Changed("changed", path, what, size=_size(today))


def _size(entry: Configured) -> int | None:
    return entry.size if entry.kind == "file" else None


def _same_lines(path: str, base: Survey, now: Survey) -> bool:
    """Say whether a file that virtroot writes to is otherwise by nothing but that."""
    before, name = base.contents.get(path, b""), trim(now.contents.get("etc/hostname", b""))
    if _BUILD_NAME in before and before.replace(_BUILD_NAME, name) == now.contents.get(path):
        return True
    return path in policy.OWN_LINES and has_same_own_lines(path, base, now)


def is_virtroots(path: str, now: Survey) -> bool:
    """Say whether a file has no other lines than those that virtroot writes."""
    ours, content = policy.OWN_LINES.get(path), now.contents.get(path)
    return ours is not None and content is not None and all(map(ours.fullmatch, split_lines(content)))


def has_same_own_lines(path: str, one: Survey, other: Survey) -> bool:
    """Say whether a file that virtroot writes to has the same other lines in both; a file that is missing has none."""
    ours = policy.OWN_LINES[path]
    kept = [
        [line for line in split_lines(survey.contents.get(path, b"")) if not ours.fullmatch(line)]
        for survey in (one, other)
    ]
    return kept[0] == kept[1]


def _files(base: Mapping[str, Unowned], now: Mapping[str, Unowned], etc: Mapping[str, Configured]) -> Iterator[Changed]:
    for path in sorted({*base, *now}):
        then, today = base.get(path), now.get(path)
        if paths.ignored(path) or _is_chosen(then, today, etc):
            continue
        if then is None and today is not None:
            tree = today.kind == "tree"
            yield Changed("added", path, "directory" if tree else "", today.size, today.entries if tree else None)
        elif today is None and then is not None:
            if path.rpartition("/")[0] not in base or path.rpartition("/")[0] in now:
                yield Changed("removed", path, size=then.size)
        elif then and today and (what := entry_changes.otherwise(then, today)):
            yield Changed("changed", path, what, size=today.size, entries=today.entries or None)


def _is_chosen(then: Unowned | None, today: Unowned | None, etc: Mapping[str, Configured]) -> bool:
    """Say whether an entry is and was a link that update-alternatives made, of one of the programs of packages."""
    entries = [entry for entry in (then, today) if entry is not None]
    known = [entry.content for entry in entries if entry.content]
    if not (known and all(entry.kind == "link" for entry in entries)):
        return False
    if not all(content.startswith("/etc/alternatives/") for content in known):
        return False
    if today is None:
        return True
    aim = etc.get(today.content.lstrip("/"))
    # One that was not looked at is as it was, or tells that by its time.
    return bool(today.content) and (then is not None or (aim is not None and bool(aim.to)))


def _altered(base: Survey, now: Survey) -> Iterator[Changed]:
    """Yield what packages have that is not as it was; what another version of its package has otherwise is not told."""
    if base.owned is None or now.owned is None or base.missing is None or now.missing is None:
        return
    versions = [{package.name: package.version for package in survey.packages} for survey in (base, now)]

    def is_same(package: str) -> bool:
        then, today = (known.get(package) for known in versions)
        return then is not None and then == today

    for path in sorted({*base.owned, *now.owned, *now.missing}):
        then, today = base.owned.get(path), now.owned.get(path)
        if paths.ignored(path) or path.startswith("etc/"):
            continue
        if path in now.missing:
            above_it = path.rpartition("/")[0]
            went = path not in base.missing and is_same(now.missing[path])
            if went and above_it not in now.missing and not _leads_away(above_it, now.owned):
                yield Changed("removed", path)
        elif then is None and today and today.kind == "link":
            known = today.content and not today.to and today.package in versions[0]
            if known or is_same(today.package):
                yield Changed("changed", path, f"leads to {today.content}" if today.content else "is a link")
        elif is_same((today or then or entry_changes.PLAIN).package) and (
            what := entry_changes.words(then or entry_changes.PLAIN, today or entry_changes.PLAIN)
        ):
            yield Changed("changed", path, what)


def _leads_away(path: str, owned: Mapping[str, Configured]) -> bool:
    return any(each in owned and owned[each].kind == "link" for each in paths.above(path))
