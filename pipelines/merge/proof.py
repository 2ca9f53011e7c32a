"""Compares the root that a guest is about to get with the plan of its upgrade."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipelines.merge import baselines, paths, policy
from pipelines.merge.baselines import Configured, Inventory
from pipelines.merge.policy import Upgrade
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.text import trim

#: virtroot writes the root and the shares into these files after the guest's state was copied.
_WRITTEN = policy.select_by_upgrade(Upgrade.MERGE_AND_WRITE)


def list_differences(plan: UpgradePlan, theirs: Inventory, now: Inventory) -> Iterator[str]:
    """Yield in words how ``now`` differs from what ``plan`` says.

    ``now`` is the root with all that was copied into it, ``theirs`` what it was before that.
    """
    ours = plan.ours
    if not (ours.has_attributes and theirs.has_attributes):
        ours, theirs, now = (baselines.drop_attributes(inventory) for inventory in (ours, theirs, now))
    decided = {each.path: each for each in plan.etc}
    accounts = {f"etc/{name}": text for name, text in plan.accounts.files.items()}
    for path in sorted({*theirs.etc, *now.etc, *decided, *accounts}):
        if path in _WRITTEN:
            continue
        found, decision = now.etc.get(path), decided.get(path)
        if path in accounts:
            if found is None or found.content != hashlib.sha256(accounts[path]).hexdigest():
                yield f"/{path} has not the accounts of both"
        elif decision and decision.verdict == "merged":
            if found is None or found.content not in _digest(decision.content, ours):
                yield f"/{path} has not the lines of both"
        elif decision and decision.verdict == "ours":
            if not _is_same(found, ours.etc.get(path), plan.accounts.users, plan.accounts.groups):
                yield f"/{path} is not the guest's"
        elif not _is_of_new_root(path, found, theirs, ours) and not _is_above_own(path, decided, ours.etc):
            yield f"/{path} is not the new root's"
    for path in plan.went:
        if path in now.unowned:
            yield f"/{path} is there, and was to be taken away"
    if now.packages != theirs.packages:
        yield "other packages"
    for name, wanted in plan.selections.items():
        if (now.decisions or {}).get("selections", {}).get(name, "install") != wanted:
            yield f"{wanted} of the package {name}"


def _digest(content: bytes, ours: Inventory) -> tuple[str, str]:
    """Return the digest of ``content``, and of it with the guest's host name in place of the builder's."""
    named = content.replace(BUILD_NAME.encode(), trim(ours.contents.get("etc/hostname", b"")))
    return hashlib.sha256(content).hexdigest(), hashlib.sha256(named).hexdigest()


def _is_of_new_root(path: str, found: Configured | None, theirs: Inventory, ours: Inventory) -> bool:
    """Say whether an entry is as in the new root, except for the host name."""
    new, content = theirs.etc.get(path), theirs.contents.get(path)
    if new is not None and content is not None and found is not None and found.content in _digest(content, ours):
        new = replace(new, content=found.content)
    return _is_same(found, new, {}, {})


def _is_above_own(path: str, decided: Mapping[str, object], ours: Mapping[str, Configured]) -> bool:
    """Say whether a path is a directory above something of the guest's: it was made or kept for that."""
    return any(each in ours and path in paths.walk_up(each.rpartition("/")[0]) for each in decided)


def _is_same(
    found: Configured | None, wanted: Configured | None, users: Mapping[int, int], groups: Mapping[int, int]
) -> bool:
    if found is None or wanted is None:
        return found is wanted
    # An ACL contains numbers. Where numbers changed, its digest did, too.
    attributes = (found.attributes, wanted.attributes) if not (users or groups) else ("", "")
    return (
        (found.kind, found.mode, found.content) == (wanted.kind, wanted.mode, wanted.content)
        and (found.uid, found.gid) == (users.get(wanted.uid, wanted.uid), groups.get(wanted.gid, wanted.gid))
        and attributes[0] == attributes[1]
    )
