"""Collects facts about a guest for `doctor`: its root, its boot directory and its shares."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from . import beneath, mountinfo, signs
from .errors import Refused
from .kernel_copy import LARGEST_BOOT_FILE, read_release


def describe_guest_or_reason(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a guest. If that fails, ``unread`` is the reason; the other guests are described."""
    try:
        return _describe_guest(asked)
    except Exception as error:
        return {"unread": str(error) or type(error).__name__}


def _describe_guest(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a guest's root, boot directory and shares."""
    root, boot = asked["root"], asked["boot"]
    try:
        status = os.lstat(root)
        found: dict[str, Any] = {
            "directory": stat.S_ISDIR(status.st_mode),
            "mode": status.st_mode & 0o7777,
            "uid": status.st_uid,
        }
    except OSError:
        found = {"directory": False, "missing": True}
    found["layers"] = any(mount.point == root and mount.kind == "overlay" for mount in mountinfo.read())
    found["boot"] = _mode(boot)
    found["files"] = {name: _mode(f"{boot}/{name}") for name in ("kernel", "initrd")}
    found["release"] = read_release(f"{boot}/kernel")
    found["shares"] = {path: os.path.realpath(path) if os.path.isdir(path) else "" for path in asked["shares"]}
    if found["directory"]:
        handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found["fstab"] = _fstab(handle)
            found["usr"] = _is_directory(handle, "usr")
            found["signs"] = signs.find(handle, asked.get("signs", {}))
            for name in ("kernel", "initrd"):
                if asked[name]:
                    found[name] = _compare(handle, asked[name], f"{boot}/{name}")
        finally:
            os.close(handle)
    return found


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode & 0o7777
    except OSError:
        return None


def _fstab(root: int) -> str | None:
    """Return the text of a root's fstab; None if it does not exist or cannot be read."""
    try:
        return beneath.read(root, "etc/fstab").decode(errors="replace")
    except (Refused, OSError):
        return None


def _is_directory(root: int, path: str) -> bool:
    try:
        os.close(beneath.open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, links=False))
    except Refused:
        return False
    return True


def _compare(root: int, path: str, copy: str) -> dict[str, Any]:
    """Compare a file of a root with its ``copy``.

    ``refused`` is the reason why the file cannot be copied, empty if it can. ``same`` is None if there is no copy.
    """
    try:
        descriptor = beneath.open_regular(root, path, LARGEST_BOOT_FILE)
    except (Refused, OSError) as error:
        return {"refused": str(error), "same": None}
    with os.fdopen(descriptor, "rb") as content:
        try:
            with open(copy, "rb") as copied:
                same = _same(content, copied, LARGEST_BOOT_FILE)
        except OSError:
            return {"refused": "", "same": None}
    return {"refused": "", "same": same}


def _same(one: Any, other: Any, most: int) -> bool:
    """Compare two open files. A guest can let one of them grow meanwhile."""
    while most >= 0:
        mine, its = one.read(1 << 20), other.read(1 << 20)
        if mine != its:
            return False
        if not mine:
            return True
        most -= len(mine)
    return False
