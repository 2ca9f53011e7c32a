"""Deleting trees that a guest wrote to, on the machine they are on."""

from __future__ import annotations

import re

from pipelines.errors import VirtrootError
from pipelines.target import subvolume
from pipelines.target.target import Target
from pipelines.text import split_lines


def points(target: Target) -> list[tuple[str, str]]:
    """Return the mount points on ``target`` and the type of each file system."""
    return parse(target.run(["cat", "/proc/self/mountinfo"]).stdout)


def parse(mountinfo: bytes) -> list[tuple[str, str]]:
    """Return the mount points and types in the text of proc_pid_mountinfo(5), bytes that are not UTF-8 as surrogates.

    The kernel writes spaces, tabs, newlines and backslashes in octal, and any other byte of a name as it is.
    """
    found = []
    for line in split_lines(mountinfo.decode(errors="surrogateescape")):
        before, _, after = line.partition(" - ")
        found.append((_unescaped(before.split(" ")[4]), _unescaped(after.split(" ")[0])))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)


def below(target: Target, path: str) -> list[str]:
    """Return the mount points at ``path`` or below it, on ``target``."""
    return [point for point, _ in points(target) if point == path or point.startswith(f"{path}/")]


def refuse(target: Target, path: str, *, besides: str = "") -> None:
    """Raise `VirtrootError` where something is mounted at or below ``path``: deleting would reach into it.

    What is mounted at ``besides`` is known of.

    rm's --one-file-system does not see a bind mount of the same file system.
    """
    mounted = [point for point in below(target, path) if point != besides]
    if mounted:
        raise VirtrootError(f"{mounted[0]} is mounted inside {path}", f"unmount it first: umount {mounted[0]}")


def delete(target: Target, *paths: str) -> None:
    """Delete trees; links in them are deleted, not followed, and nothing that is mounted in one is touched."""
    for path in paths:
        refuse(target, path)
    subvolume.delete(target, *paths)
