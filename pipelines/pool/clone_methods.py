"""Roots that share with another tree what neither changes: the ways there are, and which of them a pool has."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.pool.base_trees import BaseTree
from pipelines.target import programs, subvolume
from pipelines.target.target import Target

#: ``snapshot`` is btrfs's, ``reflink`` a copy that shares blocks, ``overlay`` the host's overlayfs; ``copy`` shares
#: nothing.
WAYS = ("auto", "snapshot", "reflink", "overlay", "copy")

#: What each way is, to people.
WORDS = {
    "snapshot": "a snapshot",
    "reflink": "a copy that shares its blocks (reflink)",
    "overlay": "a layer on top",
    "copy": "a copy",
}

_LAYERS = """
mkdir --mode=0700 -- "$1"
mkdir -- "$1/upper" "$1/work"
chmod --reference="$2" -- "$1/upper"
chown --reference="$2" -- "$1/upper"
"""

_REFLINKS = """
probe=$(mktemp -- "$1/.virtroot.XXXXXX")
trap 'rm -f -- "$probe" "$probe.clone"' EXIT
head -c 8192 /dev/urandom > "$probe"
cp --reflink=always -- "$probe" "$probe.clone"
"""

# Nothing is mounted in it, and subvolumes inside it are to come along.
_COPY = ("cp", "--no-dereference", "--recursive", "--sparse=auto", "--preserve=mode,ownership,timestamps,links,xattr")


def checked_way(way: str) -> str:
    """Return ``way`` if it is one; raises `VirtrootError`."""
    if way not in WAYS:
        raise VirtrootError(f"--clone {way}: that is no way to make a root", f"use {', '.join(WAYS)}")
    return way


def by_type(kind: str, *, btrfs: bool) -> list[str]:
    """Return the ways that a pool on a file system of that type most likely has, the best first.

    ``btrfs`` says that the program of that name is there. What it really has is tried, which writes.
    """
    found = ["snapshot"] if kind == "btrfs" and btrfs else []
    found += ["reflink"] if kind in {"btrfs", "xfs"} else []
    return [*found, *([] if kind in {"btrfs", "overlay"} else ["overlay"]), "copy"]


def way(target: Target, pool: str, asked: str, *, source: str = "") -> str:
    """Return the best way that a root in ``pool`` can be made of another tree there, or the one that is ``asked`` for.

    ``source`` is the tree, where it is there already. Raises `VirtrootError` where the pool's file system cannot do
    what is asked.
    """
    if asked in {"auto", "snapshot"}:
        fits = subvolume.possible(target, pool) and (not source or subvolume.is_one(target, source))
        if fits or asked == "snapshot":
            return "snapshot" if fits else _refuse(asked, pool, "needs subvolumes: btrfs, and the program btrfs")
    if asked in {"auto", "reflink"}:
        fits = target.run(["sh", "-ec", _REFLINKS, "reflinks", pool], check=False).returncode == 0
        if fits or asked == "reflink":
            return "reflink" if fits else _refuse(asked, pool, "needs a file system with reflinks, like xfs or btrfs")
    if asked == "overlay" and subvolume.possible(target, pool):
        # Two directories of one number are one to virtiofsd, too.
        _refuse(asked, pool, "needs numbers of files that are unique, and btrfs numbers those of each subvolume anew")
    if asked == "overlay" and set(pool) & set(",:\\"):
        _refuse(asked, pool, "cannot be told of a directory with one of , : \\ in its name")
    return "copy" if asked == "auto" else asked


def _refuse(asked: str, pool: str, why: str) -> str:
    raise VirtrootError(f"--clone {asked} in {pool}: that {why}", "use --clone auto, which takes what there is")


def make(target: Target, way: str, source: str, root: str, *, nested: bool = False) -> None:
    """Make ``root`` of the tree ``source`` by ``snapshot``, ``reflink`` or ``copy``; raises `VirtrootError`.

    With ``nested`` there may be subvolumes inside ``source``.
    """
    if way == "snapshot":
        subvolume.snapshot(target, source, root, nested=nested)
        return
    programs.check_path_length(target, source, root)
    subvolume.make(target, root)
    reflink = {"reflink": "always", "copy": "never"}[way]
    argv = [*_COPY, f"--reflink={reflink}", "--no-target-directory", "--", source, root]
    _copy(target, argv, source)


def _copy(target: Target, argv: list[str], source: str) -> None:
    done = target.run(argv, check=False)
    if done.returncode:
        raise VirtrootError(f"cannot copy {source}", "see whether the disk is full", done.complaint)


def copy_layers(target: Target, source: str, root: str) -> None:
    """Make the directory ``root`` with a copy of the layers that are in ``source``, none of them mounted."""
    for name in ("upper", "work"):
        programs.check_path_length(target, f"{source}/{name}", f"{root}/{name}")
    target.run(["mkdir", "--mode=0700", "--", root])
    # In one go: overlayfs's index, in work, has links to the files in upper.
    _copy(target, [*_COPY, "--reflink=auto", "--", f"{source}/upper", f"{source}/work", f"{root}/"], source)
    programs.detach_layers(target, root)


def layer(target: Target, golden: BaseTree, root: str) -> None:
    """Make and mount ``root`` as a layer on top of a golden tree."""
    target.run(["sh", "-ec", _LAYERS, "layers", root, golden.tree])
    programs.mount_layers(target, root, golden.path, golden.digest)
