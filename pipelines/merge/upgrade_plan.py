"""What a guest takes along when it moves to another root, what it leaves behind, and what it has to be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.artifact.difference import Difference, compare
from pipelines.errors import VirtrootError
from pipelines.merge import accounts, changes, collisions, decisions, engines, entry_changes, etc_merge, paths
from pipelines.merge.accounts import Merged
from pipelines.merge.baselines import Survey
from pipelines.merge.changes import Changed
from pipelines.merge.choices import Choices
from pipelines.merge.etc_merge import Decision, MergeText, Read
from pipelines.recipe.recipe import kept_by_nobody
from pipelines.text import one_line


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
            names = accounts.names_by_number(self.ours.contents.get(f"etc/{file}", b""))
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
    kept = paths.outermost((*collisions.KEPT, *choices.keep))
    systems = engines.foreign_trees(base, ours)
    empty = [path for path in _empty(known.files, ours, choices) if not paths.below(path, kept)]
    covered = frozenset((*kept, *empty))
    found = {
        each.name: each
        for each in (
            *known.files,
            *(Changed("changed", path) for path in known.edited),
            *(each for each in known.altered if _leads(each, ours)),
        )
        if each.kind != "removed" and not paths.below(each.name, covered) and not _brought(each, ours, theirs)
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
        accounts=accounts.merge(*(account_files(survey) for survey in (base, ours, theirs))),
        kept=kept,
        dropped=tuple(each for each in found.values() if paths.below(each.name, choices.discard)),
        undecided=tuple(each for each in found.values() if not paths.below(each.name, choices.discard)),
        lost=tuple(sorted({*lost} - {*choices.discard})),
        reverted=tuple(each for each in known.altered if not (_leads(each, ours) or paths.below(each.name, kept))),
        left=left,
        replaced=replaced,
        went=collisions.went(base, ours, theirs, kept, systems),
        empty=tuple(empty),
        systems={path: why for path, why in systems.items() if paths.below(path, kept) and _has(path, ours)},
        selections=decisions.selections(base, ours, theirs),
        held=tuple(decisions.held(ours, theirs)),
        commands=(
            *decisions.commands(base, ours, theirs, kept),
            *decisions.alternatives(chosen, ours, theirs),
        ),
    )


def _has(path: str, survey: Survey) -> bool:
    """Say whether a root has a directory, for all that is known: it may be in a tree that was told as one."""
    return path in survey.unowned or any(each in survey.unowned for each in paths.above(path.rpartition("/")[0]))


def _empty(files: Iterable[Changed], ours: Survey, choices: Choices) -> list[str]:
    """Return new directories with nothing but directories in them: services make them for themselves."""
    trees = (each.name for each in files if each.kind == "added" and not paths.below(each.name, choices.discard))
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
    return not entry_changes.otherwise(mine, new)


def account_files(survey: Survey) -> dict[str, bytes]:
    """Return the account files; raises `VirtrootError` for one that is there and cannot be had as text."""
    for name in accounts.FILES:
        if f"etc/{name}" in survey.etc and f"etc/{name}" not in survey.contents:
            raise VirtrootError(
                f"/etc/{name} is no account file: it is no regular file, or has more than 1 MiB",
                "look at it in the guest, and mend it first",
            )
    return {name: survey.contents.get(f"etc/{name}", b"") for name in accounts.FILES}
