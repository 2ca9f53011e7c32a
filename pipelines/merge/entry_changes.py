"""What of one entry of a guest's root is otherwise than before, in words."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from pipelines.merge.baselines import Configured, Survey, Unowned


def of_package(entry: Configured, packages: AbstractSet[str]) -> bool:
    """Say whether something in /etc is as its package brought it, or a link that one of ``packages`` is the reason for.

    Packages come with links of their own, and make more: those that start their services.
    """
    if entry.kind == "link":
        return bool(entry.package) or entry.to in packages
    return bool(entry.package) and (entry.kind != "file" or entry.as_packaged)


def dropped(path: str, then: Configured, now: Survey) -> bool:
    """Say whether something in /etc went because its package does not have it any more."""
    return bool(then.package) and now.missing is not None and path not in now.missing


def differs(then: Configured, today: Configured) -> str:
    """Return in words what of an entry of /etc is otherwise; what its package changed is not."""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "other" and then.content != today.content:
        return f"{then.content or 'a special file'}, now {today.content or 'another one'}"
    words = [
        "content" if then.content != today.content and not today.as_packaged else "",
        *_rights(then, today),
    ]
    return ", ".join(filter(None, words))


def _rights(then: Configured | Unowned, today: Configured | Unowned) -> Iterator[str]:
    """Yield in words what owner and mode are otherwise; older records have no modes of what no package has."""
    if then.mode is None or today.mode is None:
        return
    if (then.uid, then.gid) != (today.uid, today.gid):
        yield "owner"
    if then.mode != today.mode and then.kind != "link":
        yield f"mode {then.mode:04o}, now {today.mode:04o}"
    if then.attributes != today.attributes:
        yield "attributes"


def otherwise(then: Unowned, today: Unowned) -> str:
    """Return in words what of an entry that no package has is otherwise."""
    if "owned" in (then.kind, today.kind):
        return ""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "tree":
        alike = then.digest == today.digest if then.digest and today.digest else _measures(then) == _measures(today)
        return "" if alike else "content"
    if then.kind == "link" and then.mode is not None and today.mode is not None:
        words = [elsewhere(then, today)]
    elif then.kind == "other":
        words = [f"{then.content}, now {today.content}" if then.content != today.content else ""]
    else:
        words = ["content" if (then.size, then.modified) != (today.size, today.modified) else ""]
    return ", ".join(filter(None, (*words, *_rights(then, today))))


def elsewhere(then: Unowned | Configured, today: Unowned | Configured) -> str:
    """Return in words that a link leads elsewhere; of one that was not looked at, its length and time say that."""
    if then.content and today.content:
        same = then.content == today.content
    else:
        same = (then.size, then.modified) == (today.size, today.modified)
    return "" if same else f"leads to {today.content}" if today.content else "leads elsewhere"


def _measures(tree: Unowned) -> tuple[int, int]:
    return tree.entries, tree.files


#: What most of packages is, a file or a directory.
PLAIN = Configured("", 0o644, 0, 0)


def words(then: Configured, today: Configured) -> str:
    """Return in words what is otherwise; a kind or a mode that is not known is that of most."""
    if today.kind == "link":
        return elsewhere(then, today)
    if then.kind == "link":
        return "leads nowhere any more"
    kind = then.kind or today.kind
    both = (each if each.kind or kind == "file" else replace(each, mode=0o755) for each in (then, today))
    return ", ".join(_rights(*both))
