"""Compares the root that a guest is about to get with what the plan of its move says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipelines.merge import baselines, paths, policy
from pipelines.merge.baselines import Configured, Survey
from pipelines.merge.policy import Upgrade
from pipelines.merge.upgrade_plan import Move
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.text import trim

#: virtroot writes to it after the guest's own was carried over: the root and the shares.
_WRITTEN = policy.at_upgrade(Upgrade.MERGE_AND_WRITE)


def differences(move: Move, theirs: Survey, now: Survey) -> Iterator[str]:
    """Yield in words what of ``now``, the root with all that was carried into it, is not as ``move`` says.

    ``theirs`` is what the root was before.
    """
    ours = move.ours
    if not (ours.has_attributes and theirs.has_attributes):
        ours, theirs, now = (baselines.without_attributes(survey) for survey in (ours, theirs, now))
    decided = {each.path: each for each in move.etc}
    accounts = {f"etc/{name}": text for name, text in move.accounts.files.items()}
    for path in sorted({*theirs.etc, *now.etc, *decided, *accounts}):
        if path in _WRITTEN:
            continue
        found, decision = now.etc.get(path), decided.get(path)
        if path in accounts:
            if found is None or found.content != hashlib.sha256(accounts[path]).hexdigest():
                yield f"/{path} has not the accounts of both"
        elif decision and decision.verdict == "merged":
            if found is None or found.content not in _digests(decision.content, ours):
                yield f"/{path} has not the lines of both"
        elif decision and decision.verdict == "ours":
            if not _is_same(found, ours.etc.get(path), move.accounts.users, move.accounts.groups):
                yield f"/{path} is not the guest's"
        elif not _is_new_roots(path, found, theirs, ours) and not _is_on_the_way(path, decided, ours.etc):
            yield f"/{path} is not the new root's"
    for path in move.went:
        if path in now.unowned:
            yield f"/{path} is there, and was to be taken away"
    if now.packages != theirs.packages:
        yield "other packages"
    for name, wanted in move.selections.items():
        if (now.decisions or {}).get("selections", {}).get(name, "install") != wanted:
            yield f"{wanted} of the package {name}"


def _digests(content: bytes, ours: Survey) -> tuple[str, str]:
    """Return the digest of ``content``, and of it with the guest's name where it has that of the builder."""
    named = content.replace(BUILD_NAME.encode(), trim(ours.contents.get("etc/hostname", b"")))
    return hashlib.sha256(content).hexdigest(), hashlib.sha256(named).hexdigest()


def _is_new_roots(path: str, found: Configured | None, theirs: Survey, ours: Survey) -> bool:
    new, content = theirs.etc.get(path), theirs.contents.get(path)
    if new is not None and content is not None and found is not None and found.content in _digests(content, ours):
        new = replace(new, content=found.content)
    return _is_same(found, new, {}, {})


def _is_on_the_way(path: str, decided: Mapping[str, object], ours: Mapping[str, Configured]) -> bool:
    """Say whether something of the guest's is below a directory, which was made or kept for it."""
    return any(each in ours and path in paths.above(each.rpartition("/")[0]) for each in decided)


def _is_same(
    found: Configured | None, wanted: Configured | None, users: Mapping[int, int], groups: Mapping[int, int]
) -> bool:
    if found is None or wanted is None:
        return found is wanted
    # An ACL has numbers in it, which are others then.
    attributes = (found.attributes, wanted.attributes) if not (users or groups) else ("", "")
    return (
        (found.kind, found.mode, found.content) == (wanted.kind, wanted.mode, wanted.content)
        and (found.uid, found.gid) == (users.get(wanted.uid, wanted.uid), groups.get(wanted.gid, wanted.gid))
        and attributes[0] == attributes[1]
    )
