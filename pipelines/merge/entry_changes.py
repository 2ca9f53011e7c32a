"""What changed in one entry of a guest's root, in words."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from pipelines.merge.baselines import Configured, Inventory, Unowned


def is_from_package(entry: Configured, packages: AbstractSet[str]) -> bool:
    """Say whether an entry of /etc is there because of a package.

    That is an entry as its package brought it, or a link that a package brought or to a file of one of ``packages``.
    Scripts of packages make such links, for example to start their services.
    """
    if entry.kind == "link":
        return bool(entry.package) or entry.to in packages
    return bool(entry.package) and (entry.kind != "file" or entry.as_packaged)


def is_dropped_by_package(path: str, then: Configured, now: Inventory) -> bool:
    """Say whether an entry of /etc is gone because its package does not have it any more."""
    return bool(then.package) and now.missing is not None and path not in now.missing


def describe_etc_change(then: Configured, today: Configured) -> str:
    """Return what changed in an entry of /etc; empty where nothing did, or only what its package changed."""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "other" and then.content != today.content:
        return f"{then.content or 'a special file'}, now {today.content or 'another one'}"
    words = [
        "content" if then.content != today.content and not today.as_packaged else "",
        *_describe_rights(then, today),
    ]
    return ", ".join(filter(None, words))


def _describe_rights(then: Configured | Unowned, today: Configured | Unowned) -> Iterator[str]:
    """Yield what changed in owner, mode and attributes.

    Records of earlier versions have no modes of files that no package has.
    """
    if then.mode is None or today.mode is None:
        return
    if (then.uid, then.gid) != (today.uid, today.gid):
        yield "owner"
    if then.mode != today.mode and then.kind != "link":
        yield f"mode {then.mode:04o}, now {today.mode:04o}"
    if then.attributes != today.attributes:
        yield "attributes"


def describe_change(then: Unowned, today: Unowned) -> str:
    """Return what changed in an entry that no package has; empty where nothing did."""
    if "owned" in (then.kind, today.kind):
        return ""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "tree":
        is_same = (
            then.digest == today.digest
            if then.digest and today.digest
            else _count_entries(then) == _count_entries(today)
        )
        return "" if is_same else "content"
    if then.kind == "link" and then.mode is not None and today.mode is not None:
        words = [describe_link_change(then, today)]
    elif then.kind == "other":
        words = [f"{then.content}, now {today.content}" if then.content != today.content else ""]
    else:
        words = ["content" if (then.size, then.modified) != (today.size, today.modified) else ""]
    return ", ".join(filter(None, (*words, *_describe_rights(then, today))))


def describe_link_change(then: Unowned | Configured, today: Unowned | Configured) -> str:
    """Return where a link leads now; empty where it leads to the same path as before.

    Of a link that was not read, length and time tell whether it changed.
    """
    if then.content and today.content:
        same = then.content == today.content
    else:
        same = (then.size, then.modified) == (today.size, today.modified)
    return "" if same else f"leads to {today.content}" if today.content else "leads elsewhere"


def _count_entries(tree: Unowned) -> tuple[int, int]:
    return tree.entries, tree.files


#: Most entries of packages are such a file, or a directory of mode 0755.
PLAIN = Configured("", 0o644, 0, 0)


def describe_owned_change(then: Configured, today: Configured) -> str:
    """Return what changed in an entry of a package; empty where nothing did.

    A kind or a mode that is not known is the one that most entries of packages have.
    """
    if today.kind == "link":
        return describe_link_change(then, today)
    if then.kind == "link":
        return "leads nowhere any more"
    kind = then.kind or today.kind
    both = (each if each.kind or kind == "file" else replace(each, mode=0o755) for each in (then, today))
    return ", ".join(_describe_rights(*both))
