"""What a guest takes along when it moves to another root, what it leaves behind, and what it has to be asked."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.errors import VirtrootError
from pipelines.guest import accounts, changes, merging
from pipelines.guest.accounts import Merged
from pipelines.guest.changes import Changed
from pipelines.guest.merging import Decision, MergeText, Read
from pipelines.guest.pristine import Configured, Survey
from pipelines.libvirt.carry import File, Owners, Plan
from pipelines.recipe.recipe import kept_by_nobody
from pipelines.text import one_line

#: What is the guest's whatever it was made of: people's files, logs, mail, tables of cron's, and who lingers.
KEPT = ("home", "root", "srv", "var/lib/systemd/linger", "var/log", "var/mail", "var/spool/cron")

#: In these are other systems, whose numbers of users are theirs.
FOREIGN = (
    "var/lib/containerd",
    "var/lib/containers",
    "var/lib/docker",
    "var/lib/incus",
    "var/lib/lxc",
    "var/lib/lxd",
    "var/lib/machines",
)


@dataclass(frozen=True)
class Choices:
    """What the user said: paths, without a slash before them, to ``keep``; paths or packages to ``discard``.

    ``take`` says for paths of /etc whose is to be had.
    """

    keep: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()
    take: Mapping[str, Literal["old", "new"]] = field(default_factory=dict)

    def remembering(self, kept: Iterable[str]) -> Choices:
        """Return the same with what was ``kept`` earlier, but for what is discarded now."""
        # Rules for what may be kept were others once.
        still = [path for path in kept if not _below(path, self.discard) and not kept_by_nobody(path)]
        return replace(self, keep=tuple(dict.fromkeys([*still, *self.keep])))


@dataclass(frozen=True)
class Move:
    """What moving comes to for a guest that is ``ours``.

    ``packages`` are between the guest as it is and the new root; the rest says what becomes of what is its own.

    ``kept`` are paths that are carried over whole. ``dropped`` goes as the user said. What is ``undecided``, paths and
    ``lost`` packages, is neither kept nor dropped by anybody's word.
    ``went`` are paths that are taken away from a former root, as they were from the guest's. ``sizes`` are the bytes of
    disk that what is carried over takes, by path, of what is there; None where they are not known.
    """

    ours: Survey
    packages: Difference
    etc: tuple[Decision, ...]
    accounts: Merged
    kept: tuple[str, ...]
    dropped: tuple[Changed, ...] = ()
    undecided: tuple[Changed, ...] = ()
    lost: tuple[str, ...] = ()
    went: tuple[str, ...] = ()
    sizes: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def renumbered(self) -> list[str]:
        """The users and groups that have another number in the new root, in words."""
        found = []
        for kind, file, numbers in (("user", "passwd", self.accounts.users), ("group", "group", self.accounts.groups)):
            names = _named(self.ours.contents.get(f"etc/{file}", b""))
            found += [f"{kind} {names.get(old, '?')} {old} -> {new}" for old, new in sorted(numbers.items())]
        return found

    @property
    def conflicts(self) -> tuple[Decision, ...]:
        """The paths of /etc that the user has to decide about."""
        return tuple(merging.conflicts(self.etc))

    @property
    def open(self) -> bool:
        """Whether anything is left for the user to decide."""
        return bool(self.conflicts or self.undecided or self.lost)

    def refuse_open(self, command: str) -> None:
        """Raise `VirtrootError` where anything is left to decide; ``command`` is that of the task."""
        if not self.open:
            return
        undecided = [f"/{each.path} ({each.why})" for each in self.conflicts]
        undecided += [f"/{each.name}" for each in self.undecided]
        undecided += [f"the package {each}" for each in self.lost]
        shown = [one_line(each) for each in undecided[:5]]
        things = "1 thing is" if len(undecided) == 1 else f"{len(undecided)} things are"
        raise VirtrootError(
            f"{things} for you to decide: {', '.join(shown)}{', …' if len(undecided) > 5 else ''}",
            f"./inv {command} --preview shows all; then --take old PATH or --take new PATH for /etc, --keep PATH or "
            "--discard PATH (or PACKAGE) for the rest",
        )


def plan(
    base: Survey,
    ours: Survey,
    theirs: Survey,
    distro: str,
    choices: Choices,
    read: tuple[Read, Read],
    merge_text: MergeText,
    points: Iterable[str] = (),
    *,
    former: bool = False,
) -> Move:
    """Return what moving from ``ours``, which was ``base`` once, to ``theirs`` comes to; nothing is changed.

    With ``former`` the guest had ``theirs`` before, and ``base`` is what ``ours`` was when the guest got it: what went
    since goes from ``theirs``, and what is only there would be lost where something that is kept takes its place.

    Raises `VirtrootError` for choices about nothing and for account files that are none.
    """
    for path in choices.keep:
        if why := kept_by_nobody(path):
            raise VirtrootError(f"/{path} cannot be kept: it {why}", "name other paths")
    for path in choices.discard:
        if path.split("/")[0] in ("etc", "") or {".", ".."} & {*path.split("/")}:
            raise VirtrootError(f"/{path} cannot be discarded", "/etc is merged: see --take; name other paths")
    if not {"etc/passwd", "etc/group"} <= {*ours.etc}:
        raise VirtrootError(
            "the guest has no /etc/passwd and /etc/group, or its /etc is no directory",
            "mend it in the guest, or from the host; a plain ./inv rollback leaves it behind",
        )
    known = changes.changes(base, ours, distro, points)
    kept = _outermost((*KEPT, *choices.keep, *_empty(known.files, ours, choices)))
    found = [
        each
        for each in (*known.files, *(Changed("changed", path) for path in known.edited))
        if each.kind != "removed" and not _below(each.name, kept)
    ]
    went = []
    if former:
        found += [each for each in _replaced(base, ours, theirs) if _below(each.name, kept)]
        went = [each.name for each in known.files if each.kind == "removed" and _below(each.name, kept)]
    names = {each.name for each in theirs.packages}
    lost = [change.name for change in known.packages.added if change.name not in names]
    return Move(
        ours=ours,
        packages=compare(ours.packages, theirs.packages, distro),
        etc=tuple(merging.merge(base, ours, theirs, read, merge_text, choices.take)),
        accounts=accounts.merge(*(_accounts(survey) for survey in (base, ours, theirs))),
        kept=kept,
        dropped=tuple(each for each in found if _below(each.name, choices.discard)),
        undecided=tuple(each for each in found if not _below(each.name, choices.discard)),
        lost=tuple(sorted({*lost} - {*choices.discard})),
        went=tuple(went),
    )


def _empty(files: Iterable[Changed], ours: Survey, choices: Choices) -> list[str]:
    """Return new directories with nothing but directories in them: services make them for themselves."""
    trees = (each.name for each in files if each.kind == "added" and not _below(each.name, choices.discard))
    return [name for name in trees if ours.unowned[name].kind == "tree" and ours.unowned[name].files == 0]


def _replaced(base: Survey, ours: Survey, theirs: Survey) -> list[Changed]:
    """Return what the former root alone has below something that the guest has, too."""
    return [
        Changed("removed", path, "only the former root has it", entry.size, entry.entries or None)
        for path, entry in sorted(theirs.unowned.items())
        if path not in base.unowned
        and path not in ours.unowned
        and not changes.ignored(path)
        and path.rpartition("/")[0] in ours.unowned
    ]


def _accounts(survey: Survey) -> dict[str, bytes]:
    """Return the account files; raises `VirtrootError` for one that is there and cannot be had as text."""
    for name in accounts.FILES:
        if f"etc/{name}" in survey.etc and f"etc/{name}" not in survey.contents:
            raise VirtrootError(
                f"/etc/{name} is no account file: it is no regular file, or has more than 1 MiB",
                "look at it in the guest, and mend it first",
            )
    return {name: survey.contents.get(f"etc/{name}", b"") for name in accounts.FILES}


def _below(path: str, trees: Iterable[str]) -> bool:
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths without those that are below another one, in their order."""
    unique = list(dict.fromkeys(paths))
    return tuple(path for path in unique if not _below(path, [other for other in unique if other != path]))


def foreign(path: str) -> bool:
    """Say whether what is in ``path`` is another system's."""
    return _below(path, FOREIGN)


def foreign_sizes(move: Move) -> dict[str, int | None]:
    """Return the bytes of what is kept and another system's, by path; None for what was not measured."""
    there = {path: move.ours.unowned.get(path) for path in move.kept if foreign(path)}
    return {path: None if entry is None else entry.size for path, entry in there.items()}


def strangers(move: Move, ours: Survey, owners: Owners) -> list[str]:
    """Return who would become the owner of what nobody owns by name now, as ``user NUMBER NAME``.

    ``owners`` are those of what is carried over.
    """
    found = []
    for kind, file, numbers in (("user", "passwd", owners["users"]), ("group", "group", owners["groups"])):
        then, now = (_named(text) for text in (_accounts(ours)[file], move.accounts.files.get(file, b"")))
        unknown = {*numbers} - {*then}
        found += [f"{kind} {number} {now[number]}" for number in sorted(unknown & {*now})]
    return found


def _named(text: bytes) -> dict[int, str]:
    fields = (line.split(":") for line in text.decode(errors="replace").splitlines())
    return {int(each[2]): each[0] for each in fields if len(each) > 2 and accounts.is_number(each[2])}


def taken_along(move: Move) -> list[str]:
    """Return what is carried over with its owners: what is kept, but for other systems, and the guest's of /etc."""
    own = [each.path for each in move.etc if each.verdict == "ours" and each.path in move.ours.etc]
    return [path for path in move.kept if not foreign(path)] + own


def carried(move: Move, base: Survey, ours: Survey, theirs: Survey) -> Plan:
    """Return what is to be carried over; see `carry.carry`."""
    removals, copies = list(move.went), []
    writes: list[File] = []
    for decision in move.etc:
        path, mine, new = decision.path, ours.etc.get(decision.path), theirs.etc.get(decision.path)
        if decision.verdict == "ours" and mine is None:
            removals.append(path)
        elif decision.verdict == "ours" and mine is not None and mine.kind != "other":
            copies.append(path)
        elif decision.verdict == "merged" and mine and new:
            owners = (move.accounts.users.get(mine.uid, mine.uid), move.accounts.groups.get(mine.gid, mine.gid))
            writes.append(_file(path, decision.content, *_rights(base.etc.get(path), mine, new, owners)))
    for name, text in move.accounts.files.items():
        like = theirs.etc.get(f"etc/{name}") or ours.etc.get(f"etc/{name}")
        if like:
            writes.append(_file(f"etc/{name}", text, like.mode, like.uid, like.gid))
    return Plan(
        removals=removals,
        copies=copies,
        trees=list(move.kept),
        foreign=[path for path in move.kept if foreign(path)],
        writes=writes,
        users={str(old): new for old, new in move.accounts.users.items()},
        groups={str(old): new for old, new in move.accounts.groups.items()},
    )


def _rights(
    then: Configured | None, mine: Configured, new: Configured, owners: tuple[int, int]
) -> tuple[int, int, int]:
    """Return mode and owners of a file whose lines are of both: each is the guest's where it changed that.

    ``owners`` are the guest's by the numbers that they have in the new root.
    """
    if then is None:
        return mine.mode, new.uid, new.gid
    return (
        new.mode if mine.mode == then.mode else mine.mode,
        new.uid if mine.uid == then.uid else owners[0],
        new.gid if mine.gid == then.gid else owners[1],
    )


def _file(path: str, content: bytes, mode: int, uid: int, gid: int) -> File:
    return File(path=path, mode=mode, uid=uid, gid=gid, content=base64.b64encode(content).decode())
