"""What a guest takes along when it moves to another root, what it leaves behind, and what it has to be asked."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.errors import VirtrootError
from pipelines.merge import accounts, changes, collisions, decisions, engines, etc_merge
from pipelines.merge.accounts import Merged
from pipelines.merge.baselines import Configured, Survey
from pipelines.merge.changes import Changed
from pipelines.merge.etc_merge import Decision, MergeText, Read
from pipelines.recipe.recipe import explain_not_kept
from pipelines.target.payload.carry import CopyPlan, File, Owners
from pipelines.text import one_line, split_lines


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
        still = [path for path in kept if not collisions.below(path, self.discard) and not explain_not_kept(path)]
        return replace(self, keep=tuple(dict.fromkeys([*still, *self.keep])))


@dataclass(frozen=True)
class Move:
    """What moving comes to for a guest that is ``ours``.

    ``packages`` are between the guest as it is and the new root; the rest says what becomes of what is its own.

    ``kept`` are paths that are carried over with all that is in them. ``dropped`` goes as the user said. What is
    ``undecided``, paths and ``lost`` packages, is neither kept nor dropped by anybody's word. ``reverted`` is what
    packages have that the guest has otherwise, or not any more, and that is as they bring it again.

    Below what is kept, ``left`` is what the guest has as it was, so that the new root's stays; ``replaced`` what the
    new root has and loses to what the guest made of it; and ``went`` what was taken away in the guest, and is in the
    new root, too. ``empty`` are directories that are made where the new root has none.
    ``sizes`` are the bytes of disk that what is carried over takes, by path, of what is there; None where they are
    not known. ``systems`` are trees below what is kept whose numbers are another system's, and who says so.
    ``flagged`` are paths that chattr(1) made immutable or append-only, which their copies are not. ``selections`` are
    what dpkg is told of packages, ``held`` says which ones have another version though the guest holds them, and
    ``commands`` are what is to be run in the guest for what else its package manager was told, and why. ``before``
    and ``after`` are the artifacts that it moves between; on the second it ``failed`` before, maybe.
    """

    ours: Survey
    packages: Difference
    etc: tuple[Decision, ...]
    accounts: Merged
    kept: tuple[str, ...]
    dropped: tuple[Changed, ...] = ()
    undecided: tuple[Changed, ...] = ()
    lost: tuple[str, ...] = ()
    reverted: tuple[Changed, ...] = ()
    left: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    went: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    flagged: tuple[str, ...] = ()
    selections: Mapping[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    before: str = ""
    after: str = ""
    failed: bool = False

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
        return tuple(etc_merge.conflicts(self.etc))

    @property
    def open(self) -> bool:
        """Whether anything is left for the user to decide."""
        return bool(self.conflicts or self.undecided or self.lost)

    @property
    def to_run(self) -> list[tuple[str, str]]:
        """The commands that make anew, in the guest, what is made from something of its own; and why, in words."""
        own = {each.path for each in self.etc if each.verdict in ("ours", "merged") and each.path in self.ours.etc}
        return [*decisions.made_again(own, self.kept), *self.commands]

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

    With ``former`` the guest had ``theirs`` before, and ``base`` is what ``ours`` was when the guest got it: what is
    only there would be lost where something that is kept takes its place.

    Raises `VirtrootError` for choices about nothing and for account files that are none.
    """
    for path in choices.keep:
        if why := explain_not_kept(path):
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
    kept = collisions.outermost((*collisions.KEPT, *choices.keep))
    systems = engines.foreign_trees(base, ours)
    empty = [path for path in _empty(known.files, ours, choices) if not collisions.below(path, kept)]
    covered = frozenset((*kept, *empty))
    found = {
        each.name: each
        for each in (
            *known.files,
            *(Changed("changed", path) for path in known.edited),
            *(each for each in known.altered if _leads(each, ours)),
        )
        if each.kind != "removed" and not collisions.below(each.name, covered) and not _brought(each, ours, theirs)
    }
    if former:
        found |= {each.name: each for each in collisions.only_there(base, ours, theirs, kept, systems)}
    names = {each.name for each in theirs.packages}
    lost = [change.name for change in known.packages.added if change.name not in names]
    collisions.refuse_in_the_way(kept, ours, theirs)
    left, replaced = collisions.met(base, ours, theirs, kept, systems)
    etc = tuple(etc_merge.merge(base, ours, theirs, read, merge_text, choices.take))
    chosen = [each.path for each in etc if each.verdict == "theirs" and each.why == etc_merge.CHOSEN]
    return Move(
        ours=ours,
        packages=compare(ours.packages, theirs.packages, distro),
        etc=etc,
        accounts=accounts.merge(*(_accounts(survey) for survey in (base, ours, theirs))),
        kept=kept,
        dropped=tuple(each for each in found.values() if collisions.below(each.name, choices.discard)),
        undecided=tuple(each for each in found.values() if not collisions.below(each.name, choices.discard)),
        lost=tuple(sorted({*lost} - {*choices.discard})),
        reverted=tuple(each for each in known.altered if not (_leads(each, ours) or collisions.below(each.name, kept))),
        left=left,
        replaced=replaced,
        went=collisions.went(base, ours, theirs, kept, systems),
        empty=tuple(empty),
        systems={path: why for path, why in systems.items() if collisions.below(path, kept) and _has(path, ours)},
        selections=decisions.selections(base, ours, theirs),
        held=tuple(decisions.held(ours, theirs)),
        commands=(
            *decisions.commands(base, ours, theirs, kept),
            *decisions.alternatives(chosen, ours, theirs),
        ),
    )


def _has(path: str, survey: Survey) -> bool:
    """Say whether a root has a directory, for all that is known: it may be in a tree that was told as one."""
    return path in survey.unowned or any(each in survey.unowned for each in changes.above(path.rpartition("/")[0]))


def _empty(files: Iterable[Changed], ours: Survey, choices: Choices) -> list[str]:
    """Return new directories with nothing but directories in them: services make them for themselves."""
    trees = (each.name for each in files if each.kind == "added" and not collisions.below(each.name, choices.discard))
    return [name for name in trees if ours.unowned[name].kind == "tree" and ours.unowned[name].files == 0]


def _leads(altered: Changed, ours: Survey) -> bool:
    """Say whether something of a package's is a link of the guest's now: whoever keeps it loses nothing of the package.

    What went, or has other rights, comes back as the package brings it: an old program is not kept for its mode.
    """
    entry = (ours.owned or {}).get(altered.name)
    return altered.kind == "changed" and entry is not None and entry.kind == "link"


def _brought(each: Changed, ours: Survey, theirs: Survey) -> bool:
    """Say whether the new root has the same of what no package has."""
    mine, new = ours.unowned.get(each.name), theirs.unowned.get(each.name)
    if mine is None or new is None or mine.mode is None or new.mode is None:
        return False
    return not changes.otherwise(mine, new)


def _accounts(survey: Survey) -> dict[str, bytes]:
    """Return the account files; raises `VirtrootError` for one that is there and cannot be had as text."""
    for name in accounts.FILES:
        if f"etc/{name}" in survey.etc and f"etc/{name}" not in survey.contents:
            raise VirtrootError(
                f"/etc/{name} is no account file: it is no regular file, or has more than 1 MiB",
                "look at it in the guest, and mend it first",
            )
    return {name: survey.contents.get(f"etc/{name}", b"") for name in accounts.FILES}


def foreign_sizes(move: Move) -> dict[str, int | None]:
    """Return the bytes of what is kept and another system's, by path; None for what was not measured."""
    there = {path: move.ours.unowned.get(path) for path in move.kept if collisions.foreign(path, move.systems)}
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
    fields = (line.split(":") for line in split_lines(text.decode(errors="replace")))
    return {int(each[2]): each[0] for each in fields if len(each) > 2 and accounts.is_number(each[2])}


def taken_along(move: Move) -> list[str]:
    """Return what is carried over with its owners: what is kept, but for other systems, and the guest's of /etc."""
    own = [each.path for each in move.etc if each.verdict == "ours" and each.path in move.ours.etc]
    return [path for path in move.kept if not collisions.foreign(path, move.systems)] + list(move.empty) + own


def _is_tree(path: str, survey: Survey) -> bool:
    return path in survey.unowned and survey.unowned[path].kind == "tree"


def carried(move: Move, base: Survey, ours: Survey, theirs: Survey) -> CopyPlan:
    """Return what is to be carried over; see `carry.carry`."""
    removals, copies = list(move.went), []
    writes: list[File] = []
    for decision in move.etc:
        path, mine, new = decision.path, ours.etc.get(decision.path), theirs.etc.get(decision.path)
        if decision.verdict == "ours" and mine is None:
            removals.append(path)
        elif decision.verdict == "ours":
            copies.append(path)
        elif decision.verdict == "merged" and mine and new:
            owners = (move.accounts.users.get(mine.uid, mine.uid), move.accounts.groups.get(mine.gid, mine.gid))
            then = base.etc.get(path)
            file = _file(path, decision.content, *_rights(then, mine, new, owners))
            is_old = then is not None and mine.attributes != then.attributes
            writes.append(File(**{**file, "attributes": "old" if is_old else "new"}))
    for name, text in move.accounts.files.items():
        like = theirs.etc.get(f"etc/{name}") or ours.etc.get(f"etc/{name}")
        if like:
            writes.append(_file(f"etc/{name}", text, like.mode, like.uid, like.gid))
    return CopyPlan(
        removals=removals,
        copies=copies,
        trees=[path for path in move.kept if not collisions.is_whole(path, move.systems)],
        left=[path for path in move.left if not _is_tree(path, ours)],
        untouched=[path for path in move.left if _is_tree(path, ours)],
        whole=[path for path in move.kept if collisions.is_whole(path, move.systems)],
        foreign=sorted({path for path in move.kept if collisions.foreign(path)} | {*move.systems}),
        empty=list(move.empty),
        writes=writes,
        selections=dict(move.selections),
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
    packed = base64.b64encode(content).decode()
    return File(path=path, mode=mode, uid=uid, gid=gid, content=packed, attributes="new")


def decide(take: Sequence[str], keep: Sequence[str], discard: Sequence[str]) -> Choices:
    """Validate what the user decided on the command line; raises `VirtrootError`."""
    taken: dict[str, Literal["old", "new"]] = {}
    for each in take:
        which, _, path = each.partition(":")
        if which not in ("old", "new") or not path.startswith("/etc/"):
            raise VirtrootError(f"--take {each}", "write --take old /etc/PATH or --take new /etc/PATH")
        taken[path.strip("/")] = "old" if which == "old" else "new"
    for each in keep:
        if not each.startswith("/"):
            raise VirtrootError(f"--keep {each}: that is no path in the guest", "begin it with a slash")
    return Choices(tuple(path.strip("/") for path in keep), tuple(path.strip("/") for path in discard), taken)
