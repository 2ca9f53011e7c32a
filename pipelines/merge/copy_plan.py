"""What is copied from a guest's root into the new one, by the plan of its upgrade, and who owns it then."""

from __future__ import annotations

import base64

from pipelines.merge import accounts, collisions, upgrade_plan
from pipelines.merge.baselines import Configured, Inventory
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.target.payload.copy_plan import CopyPlan, File
from pipelines.target.payload.owners import Owners


def measure_system_trees(plan: UpgradePlan) -> dict[str, int | None]:
    """Return the bytes of kept trees of other systems, by path; None where they were not measured."""
    found = {path: plan.ours.unowned.get(path) for path in plan.kept if collisions.is_other_system(path, plan.systems)}
    return {path: None if entry is None else entry.size for path, entry in found.items()}


def list_new_owners(plan: UpgradePlan, ours: Inventory, owners: Owners) -> list[str]:
    """Return who would become the owner of copied files whose owner has no name in the guest.

    Each is ``user NUMBER NAME`` or ``group NUMBER NAME``. ``owners`` are the owners of what is copied.
    """
    found = []
    for kind, file, numbers in (("user", "passwd", owners["users"]), ("group", "group", owners["groups"])):
        then, now = (
            accounts.map_numbers_to_names(text)
            for text in (upgrade_plan.read_account_files(ours)[file], plan.accounts.files.get(file, b""))
        )
        unknown = {*numbers} - {*then}
        found += [f"{kind} {number} {now[number]}" for number in sorted(unknown & {*now})]
    return found


def list_copied_paths(plan: UpgradePlan) -> list[str]:
    """Return what is copied with its owners: kept paths except for other systems, and the guest's of /etc."""
    own = [each.path for each in plan.etc if each.verdict == "ours" and each.path in plan.ours.etc]
    return [path for path in plan.kept if not collisions.is_other_system(path, plan.systems)] + list(plan.empty) + own


def _is_tree(path: str, inventory: Inventory) -> bool:
    return path in inventory.unowned and inventory.unowned[path].kind == "tree"


def build_copy_plan(plan: UpgradePlan, base: Inventory, ours: Inventory, theirs: Inventory) -> CopyPlan:
    """Return the plan for the program that copies the guest's state into the new root."""
    removals, copies = list(plan.went), []
    writes: list[File] = []
    for decision in plan.etc:
        path, mine, new = decision.path, ours.etc.get(decision.path), theirs.etc.get(decision.path)
        if decision.verdict == "ours" and mine is None:
            removals.append(path)
        elif decision.verdict == "ours":
            copies.append(path)
        elif decision.verdict == "merged" and mine and new:
            owners = (plan.accounts.users.get(mine.uid, mine.uid), plan.accounts.groups.get(mine.gid, mine.gid))
            then = base.etc.get(path)
            file = _describe_file(path, decision.content, *_merge_rights(then, mine, new, owners))
            is_old = then is not None and mine.attributes != then.attributes
            writes.append(File(**{**file, "attributes": "old" if is_old else "new"}))
    for name, text in plan.accounts.files.items():
        like = theirs.etc.get(f"etc/{name}") or ours.etc.get(f"etc/{name}")
        if like:
            writes.append(_describe_file(f"etc/{name}", text, like.mode, like.uid, like.gid))
    return CopyPlan(
        removals=removals,
        copies=copies,
        trees=[path for path in plan.kept if not collisions.is_kept_whole(path, plan.systems)],
        left=[path for path in plan.left if not _is_tree(path, ours)],
        untouched=[path for path in plan.left if _is_tree(path, ours)],
        whole=[path for path in plan.kept if collisions.is_kept_whole(path, plan.systems)],
        foreign=sorted({path for path in plan.kept if collisions.is_other_system(path)} | {*plan.systems}),
        empty=list(plan.empty),
        writes=writes,
        selections=dict(plan.selections),
        users={str(old): new for old, new in plan.accounts.users.items()},
        groups={str(old): new for old, new in plan.accounts.groups.items()},
    )


def _merge_rights(
    then: Configured | None, mine: Configured, new: Configured, owners: tuple[int, int]
) -> tuple[int, int, int]:
    """Return mode and owners of a merged file: each is the guest's where the guest changed it.

    ``owners`` are the guest's owners by their numbers in the new root.
    """
    if then is None:
        return mine.mode, new.uid, new.gid
    return (
        new.mode if mine.mode == then.mode else mine.mode,
        new.uid if mine.uid == then.uid else owners[0],
        new.gid if mine.gid == then.gid else owners[1],
    )


def _describe_file(path: str, content: bytes, mode: int, uid: int, gid: int) -> File:
    packed = base64.b64encode(content).decode()
    return File(path=path, mode=mode, uid=uid, gid=gid, content=packed, attributes="new")
