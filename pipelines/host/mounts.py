"""Deleting trees that a guest wrote to, on the machine they are on."""

from __future__ import annotations

import re

from pipelines.errors import VirtrootError
from pipelines.host import subvolume
from pipelines.host.target import Target


def points(target: Target) -> list[tuple[str, str]]:
    """Return the mount points on ``target`` and the type of each file system; see proc_pid_mountinfo(5)."""
    lines = target.run(["cat", "/proc/self/mountinfo"]).text.splitlines()
    fields = ((line.split()[4], line.partition(" - ")[2].split()[0]) for line in lines)
    return [(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point), kind) for point, kind in fields]


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
