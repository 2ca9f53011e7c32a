"""What becomes of /etc when a guest moves to another root: three ways, file by file, as its owner would.

``base`` is what the guest began with, ``ours`` what it has, ``theirs`` what the new root has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import VirtrootError
from pipelines.merge import accounts, changes, entry_changes, paths, policy
from pipelines.merge.baselines import Configured, Survey
from pipelines.merge.policy import Upgrade
from pipelines.recipe import machine_specific

#: ``ours``: the guest's is carried over, or it is taken away as it was in the guest. ``theirs``: the new root's stays,
#: where the guest's is otherwise and not by its user's doing. ``merged``: the lines of both. ``conflict``: neither can
#: be had without losing the other.
Verdict = Literal["ours", "theirs", "merged", "conflict"]

#: Merges three texts and returns the lines of both sides; None where they touch each other.
MergeText = Callable[[bytes, bytes, bytes], bytes | None]

#: Of a file, its content; None where it is not to be had as text.
Read = Callable[[str], bytes | None]

#: Made by programs from something else; the new root has its own, made by its programs.
_NEW = policy.at_upgrade(Upgrade.NEW, "etc/")

#: Directories with links of update-alternatives.
_ALTERNATIVES = tuple(path.removesuffix("*") for path in policy.at_upgrade(Upgrade.ALTERNATIVES))

#: The guest's, where it has nothing but lines of virtroot.
_NAMES_GUEST = policy.at_upgrade(Upgrade.MERGE_OR_COPY)

#: Why an alternative is the new root's that the guest's user chose.
CHOSEN = "chosen in the guest: update-alternatives chooses it again"

#: Why a decision is as it is that the user took.
_TAKEN = "as --take says"


@dataclass(frozen=True)
class Decision:
    """What becomes of one path of /etc, and why, in words; ``content`` is the merged file's."""

    path: str
    verdict: Verdict
    why: str
    content: bytes = b""


def merge(
    base: Survey,
    ours: Survey,
    theirs: Survey,
    read: tuple[Read, Read],
    merge_text: MergeText,
    take: Mapping[str, Literal["old", "new"]],
) -> list[Decision]:
    """Decide about each path of /etc that is not the same in the guest and in the new root, sorted.

    ``read`` reads files of the guest and of the new root. ``take`` says for paths, and for all below them, which is to
    be had; raises `VirtrootError` for one that decides nothing.
    """
    names, had = {each.name for each in ours.packages}, {each.name for each in base.packages}
    gone, purged = names - {each.name for each in theirs.packages}, had - names
    found: list[Decision] = []
    unused = set(take)
    for path in sorted({*ours.etc, *theirs.etc, *base.etc}):
        if _is_account(path) or path in _NEW:
            continue
        then, mine, new = (survey.etc.get(path) for survey in (base, ours, theirs))
        if _same(mine, new):
            continue
        given = _given(path, take)
        if given:
            unused.discard(given)
            found.append(Decision(path, "ours" if take[given] == "old" else "theirs", _TAKEN))
            continue
        if path.startswith(_ALTERNATIVES):
            found += _alternative(path, then, mine)
            continue
        if mine is None and then is not None and entry_changes.dropped(path, then, ours):
            found.append(Decision(path, "theirs", "its package did not have it any more in the guest"))
            continue
        if path in _NAMES_GUEST and changes.is_virtroots(path, ours) and changes.has_same_own_lines(path, base, theirs):
            # Roots of an earlier version had another such file, or none.
            found.append(Decision(path, "ours", "names the guest"))
            continue
        decision = _decided(path, then, mine, new, gone, purged)
        if decision.verdict == "conflict":
            decision = _merged(decision, then, mine, new, base, read, merge_text)
        found.append(decision)
    if unused:
        raise VirtrootError(
            f"--take {min(unused)}: the guest and the new root have the same there", "./inv upgrade --preview shows all"
        )
    coming = {each.path for each in found if each.verdict == "ours"}
    more = {above for path in theirs.etc if path not in base.etc for above in paths.above(path.rpartition("/")[0])}
    return [_fitting(each, coming, more, ours, theirs) if each.verdict == "ours" else each for each in found]


def _fitting(
    decision: Decision, coming: AbstractSet[str], more: AbstractSet[str], ours: Survey, theirs: Survey
) -> Decision:
    """Return the decision for the guest's side, or another one where something below or above the path is against it.

    ``coming`` are all paths that are decided so, ``more`` directories in which the new root has something of its own.
    """
    path, mine, new = decision.path, ours.etc.get(decision.path), theirs.etc.get(decision.path)
    if new is not None and new.kind == "directory" and path in more and decision.why != _TAKEN:
        if mine is None:
            return Decision(path, "theirs", "taken away in the guest, and the new root has something else in it")
        if mine.kind != "directory":
            return Decision(path, "conflict", f"{_kind(mine)} in the guest, and the new root has something else in it")
    if mine is not None:
        for above in paths.above(path.rpartition("/")[0]):
            there = theirs.etc.get(above)
            if there is not None and there.kind != "directory" and above not in coming:
                return Decision(path, "conflict", f"/{above}, which it is in, is {_kind(there)} in the new root")
    return decision


def _kind(entry: Configured) -> str:
    return f"a {(entry.content or 'special file') if entry.kind == 'other' else entry.kind}"


def _alternative(path: str, then: Configured | None, mine: Configured | None) -> Iterator[Decision]:
    """Decide about one of update-alternatives' links, which are the new root's but where the guest has its own."""
    if mine is None or _same(then, mine):
        return
    if mine.kind == "link" and not mine.to:
        yield Decision(path, "ours", "leads to something that no package has")
    elif then is not None:
        yield Decision(path, "theirs", CHOSEN)


def _is_account(path: str) -> bool:
    """Say whether a path is of the account files, which are merged by name, or a copy that programs keep of them."""
    return path.removeprefix("etc/").removesuffix("-") in accounts.FILES


def _same(one: Configured | None, other: Configured | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        getattr(one, what) == getattr(other, what) for what in ("kind", "content", "uid", "gid", "mode", "attributes")
    )


def _given(path: str, take: Iterable[str]) -> str:
    """Return the longest of the paths that ``path`` is or is below; empty for none."""
    return max((each for each in take if path == each or path.startswith(f"{each}/")), key=len, default="")


def _decided(
    path: str,
    then: Configured | None,
    mine: Configured | None,
    new: Configured | None,
    gone: AbstractSet[str],
    purged: AbstractSet[str],
) -> Decision:
    """Decide about one path; ``gone`` are packages that the guest alone has, ``purged`` those that it took away."""
    # Golden roots that an earlier version built have the packages' keys, and the new one has none.
    if mine is not None and (then is None or new is None) and machine_specific.is_material(path):
        return Decision(path, "ours", "identifies the guest")
    if then is None:
        if mine is None:
            return Decision(path, "theirs", "added in the new root")
        if new is None:
            dropped = entry_changes.of_package(mine, gone)
            why = "of a package that the new root does not have" if dropped else "added in the guest"
            return Decision(path, "theirs" if dropped else "ours", why)
        if entry_changes.of_package(mine, frozenset()):
            return Decision(path, "theirs", "added in the new root")
        if mine.kind == new.kind == "directory" and paths.ignored(path):
            return Decision(path, "theirs", "made by programs on both sides")
        return Decision(path, "conflict", "added on both sides")
    if mine is None:
        if new is not None and {then.package, then.to} & purged:
            # A package without its configuration would not run.
            return Decision(path, "theirs", "of a package that the guest took away, and that the new root brings")
        return Decision(path, "ours", "taken away in the guest")
    changed = entry_changes.differs(then, mine)
    if not changed:
        return Decision(path, "theirs", "changed in the new root" if new else "taken away in the new root")
    if new is None or _same(then, new):
        return Decision(path, "ours", f"changed in the guest: {changed}")
    return Decision(path, "conflict", "changed on both sides")


def _merged(
    decision: Decision,
    then: Configured | None,
    mine: Configured | None,
    new: Configured | None,
    base: Survey,
    read: tuple[Read, Read],
    merge_text: MergeText,
) -> Decision:
    """Return a decision for both sides' lines where a conflict is one of whole files only."""
    path = decision.path
    if not (then and mine and new) or {then.kind, mine.kind, new.kind} != {"file"}:
        return decision
    before, ours, theirs = base.contents.get(path), read[0](path), read[1](path)
    if before is None or ours is None or theirs is None:
        return decision
    merged = merge_text(before, ours, theirs)
    return decision if merged is None else Decision(path, "merged", "changed on both sides, in other lines", merged)


def conflicts(decisions: Iterable[Decision]) -> Iterator[Decision]:
    """Yield those that need a word of the user's."""
    return (each for each in decisions if each.verdict == "conflict")
