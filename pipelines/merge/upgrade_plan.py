"""The plan of an upgrade: what of a guest is kept, what is left behind, and what the user has to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.artifact.difference import Difference, compare
from pipelines.errors import VirtrootError
from pipelines.merge import accounts, changes, collisions, decisions, engines, entry_changes, etc_merge, paths
from pipelines.merge.accounts import Merged
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changed
from pipelines.merge.choices import Choices
from pipelines.merge.etc_merge import Decision, MergeText, Read
from pipelines.recipe.recipe import explain_not_kept
from pipelines.text import one_line


@dataclass(frozen=True)
class UpgradePlan:
    """Hold what an upgrade does to a guest whose inventory is ``ours``.

    ``packages`` are the differences between the guest and the new root. The other fields say what becomes of the
    guest's state.

    ``kept`` are paths that are copied with all that is in them. ``dropped`` is discarded as the user said. The user has
    to decide about ``undecided`` paths and ``lost`` packages. ``reverted`` are entries of packages that the guest
    altered or deleted, and that are as in the package again.

    Below kept paths, ``left`` is what the guest never changed, so that the new root's version stays. ``replaced`` is
    what the guest's version replaces in the new root. ``went`` is what the guest deleted and the new root has.
    ``empty`` are directories that are made where the new root has none.

    ``sizes`` are the bytes of disk that copied paths take; None where they are not known. ``systems`` are trees of
    other systems below kept paths, with who names them. ``flagged`` are paths that chattr(1) made immutable or
    append-only, unlike their copies. ``selections`` are what dpkg is to want of packages. ``held`` names packages that
    the guest holds and that have another version then. ``commands`` are to be run in the guest for other decisions of
    its package manager, each with the reason. ``before`` and ``after`` are the artifacts, and ``failed`` says that the
    guest failed on the second one before.
    """

    ours: Inventory
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
        """Return the users and groups that have another number in the new root, in words."""
        found = []
        for kind, file, numbers in (("user", "passwd", self.accounts.users), ("group", "group", self.accounts.groups)):
            names = accounts.map_numbers_to_names(self.ours.contents.get(f"etc/{file}", b""))
            found += [f"{kind} {names.get(old, '?')} {old} -> {new}" for old, new in sorted(numbers.items())]
        return found

    @property
    def conflicts(self) -> tuple[Decision, ...]:
        """Return the paths of /etc that the user has to decide about."""
        return tuple(etc_merge.select_conflicts(self.etc))

    @property
    def has_open_decisions(self) -> bool:
        """Say whether the user has anything left to decide."""
        return bool(self.conflicts or self.undecided or self.lost)

    @property
    def to_run(self) -> list[tuple[str, str]]:
        """Return the commands to run in the guest after the upgrade, each with the reason."""
        own = {each.path for each in self.etc if each.verdict in ("ours", "merged") and each.path in self.ours.etc}
        return [*decisions.list_generators(own, self.kept), *self.commands]

    def refuse_open(self, command: str) -> None:
        """Raise `VirtrootError` where the user has something left to decide; ``command`` is that of the task."""
        if not self.has_open_decisions:
            return
        undecided = [f"/{each.path} ({each.why})" for each in self.conflicts]
        undecided += [f"/{each.name}" for each in self.undecided]
        undecided += [f"the package {each}" for each in self.lost]
        shown = [one_line(each) for each in undecided[:5]]
        things = "1 thing is" if len(undecided) == 1 else f"{len(undecided)} things are"
        raise VirtrootError(
            f"{things} for you to decide: {', '.join(shown)}{', …' if len(undecided) > 5 else ''}",
            f"run ./inv {command} --preview to see all; then give --take old PATH or --take new PATH for /etc, "
            "--keep PATH or --discard PATH (or PACKAGE) for the rest",
        )


def plan(
    base: Inventory,
    ours: Inventory,
    theirs: Inventory,
    distro: str,
    choices: Choices,
    read: tuple[Read, Read],
    merge_text: MergeText,
    points: Iterable[str] = (),
    *,
    is_previous: bool = False,
) -> UpgradePlan:
    """Return the plan for an upgrade from ``ours``, whose baseline is ``base``, to ``theirs``; nothing is changed.

    With ``is_previous`` the guest had the root ``theirs`` before, and ``base`` is the inventory of its present root at
    install. What only the previous root has would be lost where a kept path takes its place.

    Raises `VirtrootError` for choices that decide nothing and for invalid account files.
    """
    for path in choices.keep:
        if why := explain_not_kept(path):
            raise VirtrootError(f"/{path} cannot be kept: it {why}", "name other paths")
    for path in choices.discard:
        if path.split("/")[0] in ("etc", "") or {".", ".."} & {*path.split("/")}:
            raise VirtrootError(f"/{path} cannot be discarded", "name other paths; for /etc give --take")
    if not {"etc/passwd", "etc/group"} <= {*ours.etc}:
        raise VirtrootError(
            "the guest has no /etc/passwd or /etc/group, or its /etc is not a directory",
            "fix it in the guest, or from the host; ./inv rollback without --carry leaves it behind",
        )
    known = changes.compare_inventories(base, ours, distro, points)
    kept = paths.drop_nested((*collisions.ALWAYS_KEPT, *choices.keep))
    systems = engines.list_system_trees(base, ours)
    empty = [path for path in _list_empty(known.files, ours, choices) if not paths.is_below(path, kept)]
    covered = frozenset((*kept, *empty))
    found = {
        each.name: each
        for each in (
            *known.files,
            *(Changed("changed", path) for path in known.edited),
            *(each for each in known.altered if _is_link_now(each, ours)),
        )
        if each.kind != "removed" and not paths.is_below(each.name, covered) and not _is_in_new_root(each, ours, theirs)
    }
    if is_previous:
        found |= {each.name: each for each in collisions.list_lost_by_rollback(base, ours, theirs, kept, systems)}
    names = {each.name for each in theirs.packages}
    lost = [change.name for change in known.packages.added if change.name not in names]
    collisions.refuse_blocked(kept, ours, theirs)
    left, replaced = collisions.resolve_collisions(base, ours, theirs, kept, systems)
    etc = tuple(etc_merge.merge(base, ours, theirs, read, merge_text, choices.take))
    chosen = [each.path for each in etc if each.verdict == "theirs" and each.why == etc_merge.CHOSEN]
    return UpgradePlan(
        ours=ours,
        packages=compare(ours.packages, theirs.packages, distro),
        etc=etc,
        accounts=accounts.merge(*(read_account_files(inventory) for inventory in (base, ours, theirs))),
        kept=kept,
        dropped=tuple(each for each in found.values() if paths.is_below(each.name, choices.discard)),
        undecided=tuple(each for each in found.values() if not paths.is_below(each.name, choices.discard)),
        lost=tuple(sorted({*lost} - {*choices.discard})),
        reverted=tuple(
            each for each in known.altered if not (_is_link_now(each, ours) or paths.is_below(each.name, kept))
        ),
        left=left,
        replaced=replaced,
        went=collisions.list_deleted(base, ours, theirs, kept, systems),
        empty=tuple(empty),
        systems={path: why for path, why in systems.items() if paths.is_below(path, kept) and _is_in_guest(path, ours)},
        selections=decisions.merge_selections(base, ours, theirs),
        held=tuple(decisions.describe_holds(ours, theirs)),
        commands=(
            *decisions.list_commands(base, ours, theirs, kept),
            *decisions.list_alternatives(chosen, ours, theirs),
        ),
    )


def _is_in_guest(path: str, inventory: Inventory) -> bool:
    """Say whether a root has a directory, as far as is known: it may be in a tree that was recorded as one."""
    return path in inventory.unowned or any(
        each in inventory.unowned for each in paths.walk_up(path.rpartition("/")[0])
    )


def _list_empty(files: Iterable[Changed], ours: Inventory, choices: Choices) -> list[str]:
    """Return the new directories that have only directories in them: services make these for themselves."""
    trees = (each.name for each in files if each.kind == "added" and not paths.is_below(each.name, choices.discard))
    return [name for name in trees if ours.unowned[name].kind == "tree" and ours.unowned[name].files == 0]


def _is_link_now(altered: Changed, ours: Inventory) -> bool:
    """Say whether an entry of a package is a link of the guest's now, so that keeping it keeps no old program.

    Deleted entries and those with other rights come back as in the package. An old program is not kept for its mode.
    """
    entry = (ours.owned or {}).get(altered.name)
    return altered.kind == "changed" and entry is not None and entry.kind == "link"


def _is_in_new_root(each: Changed, ours: Inventory, theirs: Inventory) -> bool:
    """Say whether the new root has the same entry, of those that no package has."""
    mine, new = ours.unowned.get(each.name), theirs.unowned.get(each.name)
    if mine is None or new is None or mine.mode is None or new.mode is None:
        return False
    return not entry_changes.describe_change(mine, new)


def read_account_files(inventory: Inventory) -> dict[str, bytes]:
    """Return the account files; raises `VirtrootError` for one that cannot be read as text."""
    for name in accounts.FILES:
        if f"etc/{name}" in inventory.etc and f"etc/{name}" not in inventory.contents:
            raise VirtrootError(
                f"/etc/{name} is not a valid account file: not a regular file, or larger than 1 MiB",
                "fix it in the guest",
            )
    return {name: inventory.contents.get(f"etc/{name}", b"") for name in accounts.FILES}
