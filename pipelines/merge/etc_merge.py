"""What becomes of /etc when a guest gets another root: a three-way merge, file by file.

``base`` is the guest's baseline, ``ours`` what the guest has, ``theirs`` what the new root has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import VirtrootError
from pipelines.merge import accounts, changes, entry_changes, paths, policy
from pipelines.merge.baselines import Configured, Inventory
from pipelines.merge.policy import Upgrade
from pipelines.recipe import machine_specific

#: ``ours``: the guest's version is copied, or deleted as in the guest. ``theirs``: the new root's version stays; the
#: guest's differs, but not by a change of its user. ``merged``: the lines of both. ``conflict``: either version would
#: lose a change of the other.
Verdict = Literal["ours", "theirs", "merged", "conflict"]

#: Merge three texts and return the lines of both sides; None where their changes touch each other.
MergeText = Callable[[bytes, bytes, bytes], bytes | None]

#: Return the content of a file; None where it cannot be read as text.
Read = Callable[[str], bytes | None]

#: Files that programs generate. The new root has its own.
_NEW_ROOTS = policy.select_by_upgrade(Upgrade.NEW, "etc/")

#: Directories with links of update-alternatives.
_ALTERNATIVES = tuple(path.removesuffix("*") for path in policy.select_by_upgrade(Upgrade.ALTERNATIVES))

#: Files that name the guest: the guest's stays where it has only lines of virtroot.
_NAMES_GUEST = policy.select_by_upgrade(Upgrade.MERGE_OR_COPY)

#: Why the new root's alternative stays, although the guest's user chose one.
CHOSEN = "chosen in the guest: update-alternatives chooses it again"

#: Why a decision is as it is, if the user made it.
_AS_TAKEN = "as --take says"


@dataclass(frozen=True)
class Decision:
    """Say what becomes of one path of /etc, and why; ``content`` is that of a merged file."""

    path: str
    verdict: Verdict
    why: str
    content: bytes = b""


def merge(
    base: Inventory,
    ours: Inventory,
    theirs: Inventory,
    read: tuple[Read, Read],
    merge_text: MergeText,
    take: Mapping[str, Literal["old", "new"]],
) -> list[Decision]:
    """Return a decision for each path of /etc that differs between the guest and the new root, sorted.

    ``read`` reads files of the guest and of the new root. ``take`` has the user's choices for paths and all that is
    below them. Raises `VirtrootError` for a choice that decides nothing.
    """
    names, had = {each.name for each in ours.packages}, {each.name for each in base.packages}
    gone, purged = names - {each.name for each in theirs.packages}, had - names
    found: list[Decision] = []
    unused = set(take)
    for path in sorted({*ours.etc, *theirs.etc, *base.etc}):
        if _is_account(path) or path in _NEW_ROOTS:
            continue
        then, mine, new = (inventory.etc.get(path) for inventory in (base, ours, theirs))
        if _is_same(mine, new):
            continue
        choice = _find_choice(path, take)
        if choice:
            unused.discard(choice)
            found.append(Decision(path, "ours" if take[choice] == "old" else "theirs", _AS_TAKEN))
            continue
        if path.startswith(_ALTERNATIVES):
            found += _decide_alternative(path, then, mine)
            continue
        if mine is None and then is not None and entry_changes.is_dropped_by_package(path, then, ours):
            found.append(Decision(path, "theirs", "its package did not have it any more in the guest"))
            continue
        if (
            path in _NAMES_GUEST
            and changes.has_only_own_lines(path, ours)
            and changes.has_same_other_lines(path, base, theirs)
        ):
            # Roots that an earlier version built have another such file, or none.
            found.append(Decision(path, "ours", "names the guest"))
            continue
        decision = _decide(path, then, mine, new, gone, purged)
        if decision.verdict == "conflict":
            decision = _merge_lines(decision, then, mine, new, base, read, merge_text)
        found.append(decision)
    if unused:
        raise VirtrootError(
            f"--take {min(unused)}: the guest and the new root do not differ there", "run ./inv upgrade --preview"
        )
    coming = {each.path for each in found if each.verdict == "ours"}
    more = {above for path in theirs.etc if path not in base.etc for above in paths.walk_up(path.rpartition("/")[0])}
    return [_fit(each, coming, more, ours, theirs) if each.verdict == "ours" else each for each in found]


def _fit(
    decision: Decision, coming: AbstractSet[str], more: AbstractSet[str], ours: Inventory, theirs: Inventory
) -> Decision:
    """Return the decision for the guest's version, changed where something above or below the path prevents it.

    ``coming`` are all paths that are decided so, ``more`` directories to which the new root adds something.
    """
    path, mine, new = decision.path, ours.etc.get(decision.path), theirs.etc.get(decision.path)
    if new is not None and new.kind == "directory" and path in more and decision.why != _AS_TAKEN:
        if mine is None:
            return Decision(path, "theirs", "taken away in the guest, and the new root has something else in it")
        if mine.kind != "directory":
            return Decision(
                path, "conflict", f"{_format_kind(mine)} in the guest, and the new root has something else in it"
            )
    if mine is not None:
        for above in paths.walk_up(path.rpartition("/")[0]):
            parent = theirs.etc.get(above)
            if parent is not None and parent.kind != "directory" and above not in coming:
                return Decision(
                    path, "conflict", f"/{above}, which it is in, is {_format_kind(parent)} in the new root"
                )
    return decision


def _format_kind(entry: Configured) -> str:
    return f"a {(entry.content or 'special file') if entry.kind == 'other' else entry.kind}"


def _decide_alternative(path: str, then: Configured | None, mine: Configured | None) -> Iterator[Decision]:
    """Yield the decision about a link of update-alternatives, if the guest's user changed it."""
    if mine is None or _is_same(then, mine):
        return
    if mine.kind == "link" and not mine.to:
        yield Decision(path, "ours", "leads to something that no package has")
    elif then is not None:
        yield Decision(path, "theirs", CHOSEN)


def _is_account(path: str) -> bool:
    """Say whether a path is one of the account files, which are merged by name, or a program's copy of one."""
    return path.removeprefix("etc/").removesuffix("-") in accounts.FILES


def _is_same(one: Configured | None, other: Configured | None) -> bool:
    """Say whether two entries are the same in all that an upgrade copies."""
    if one is None or other is None:
        return one is other
    return all(
        getattr(one, what) == getattr(other, what) for what in ("kind", "content", "uid", "gid", "mode", "attributes")
    )


def _find_choice(path: str, take: Iterable[str]) -> str:
    """Return the longest of the paths that ``path`` is or is below; empty for none."""
    return max((each for each in take if path == each or path.startswith(f"{each}/")), key=len, default="")


def _decide(
    path: str,
    then: Configured | None,
    mine: Configured | None,
    new: Configured | None,
    gone: AbstractSet[str],
    purged: AbstractSet[str],
) -> Decision:
    """Return the decision about one path, without looking at lines.

    ``gone`` are packages that only the guest has, ``purged`` those that it removed since it was built.
    """
    # Golden roots that an earlier version built have keys of packages, and the new root has none.
    if mine is not None and (then is None or new is None) and machine_specific.is_material(path):
        return Decision(path, "ours", "identifies the guest")
    if then is None:
        if mine is None:
            return Decision(path, "theirs", "added in the new root")
        if new is None:
            dropped = entry_changes.is_from_package(mine, gone)
            why = "of a package that the new root does not have" if dropped else "added in the guest"
            return Decision(path, "theirs" if dropped else "ours", why)
        if entry_changes.is_from_package(mine, frozenset()):
            return Decision(path, "theirs", "added in the new root")
        if mine.kind == new.kind == "directory" and paths.is_ignored(path):
            return Decision(path, "theirs", "made by programs on both sides")
        return Decision(path, "conflict", "added on both sides")
    if mine is None:
        if new is not None and {then.package, then.to} & purged:
            # The new root has the package, which would not run without its configuration.
            return Decision(path, "theirs", "of a package that the guest took away, and that the new root brings")
        return Decision(path, "ours", "taken away in the guest")
    changed = entry_changes.describe_etc_change(then, mine)
    if not changed:
        return Decision(path, "theirs", "changed in the new root" if new else "taken away in the new root")
    if new is None or _is_same(then, new):
        return Decision(path, "ours", f"changed in the guest: {changed}")
    return Decision(path, "conflict", "changed on both sides")


def _merge_lines(
    decision: Decision,
    then: Configured | None,
    mine: Configured | None,
    new: Configured | None,
    base: Inventory,
    read: tuple[Read, Read],
    merge_text: MergeText,
) -> Decision:
    """Return a decision for the lines of both sides; the conflict, where they cannot be merged."""
    path = decision.path
    if not (then and mine and new) or {then.kind, mine.kind, new.kind} != {"file"}:
        return decision
    before, ours, theirs = base.contents.get(path), read[0](path), read[1](path)
    if before is None or ours is None or theirs is None:
        return decision
    merged = merge_text(before, ours, theirs)
    return decision if merged is None else Decision(path, "merged", "changed on both sides, in other lines", merged)


def select_conflicts(decisions: Iterable[Decision]) -> Iterator[Decision]:
    """Yield the decisions that the user has to make."""
    return (each for each in decisions if each.verdict == "conflict")
