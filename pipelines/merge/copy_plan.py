"""What is copied from a guest's root into the new one, by the plan of its upgrade, and whose it is then."""

from __future__ import annotations

import base64

from pipelines.merge import accounts, collisions, upgrade_plan
from pipelines.merge.baselines import Configured, Survey
from pipelines.merge.upgrade_plan import Move
from pipelines.target.payload.carry import CopyPlan, File, Owners


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
        then, now = (
            accounts.names_by_number(text)
            for text in (upgrade_plan.account_files(ours)[file], move.accounts.files.get(file, b""))
        )
        unknown = {*numbers} - {*then}
        found += [f"{kind} {number} {now[number]}" for number in sorted(unknown & {*now})]
    return found


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
