"""Mounts on a target, and deleting trees that a guest wrote."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.target import subvolume
from pipelines.target.payload import mountinfo
from pipelines.target.payload.mountinfo import Mount
from pipelines.target.target import Target


def points(target: Target) -> list[Mount]:
    """Return the mounts on ``target``."""
    return mountinfo.parse(target.run(["cat", "/proc/self/mountinfo"]).stdout)


def below(target: Target, path: str) -> list[str]:
    """Return the mount points at ``path`` or below it, on ``target``."""
    return [each.point for each in points(target) if each.point == path or each.point.startswith(f"{path}/")]


def refuse(target: Target, path: str, *, besides: str = "") -> None:
    """Raise `VirtrootError` if something is mounted at ``path`` or below it: a deletion would reach into it.

    A mount at ``besides`` is allowed. rm's --one-file-system does not notice a bind mount of the same file system.
    """
    mounted = [point for point in below(target, path) if point != besides]
    if mounted:
        raise VirtrootError(f"{mounted[0]} is mounted inside {path}", f"unmount it first: umount {mounted[0]}")


def delete(target: Target, *paths: str) -> None:
    """Delete trees. Links in them are not followed. Raises `VirtrootError` if something is mounted in one."""
    for path in paths:
        refuse(target, path)
    subvolume.delete(target, *paths)
