"""Clone methods: how a root shares unchanged blocks or files with another tree, and which methods a pool supports."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.pool.base_trees import BaseTree
from pipelines.target import programs, subvolume
from pipelines.target.target import Target

#: ``snapshot`` is a btrfs snapshot, ``reflink`` a copy that shares blocks, ``overlay`` a layer of the host's overlayfs;
#: ``copy`` shares nothing.
METHODS = ("auto", "snapshot", "reflink", "overlay", "copy")

#: What messages call the result of each method.
DESCRIPTIONS = {
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

# The source contains no mounts, and subvolumes inside it have to be copied, too.
_COPY = ("cp", "--no-dereference", "--recursive", "--sparse=auto", "--preserve=mode,ownership,timestamps,links,xattr")


def check_method(method: str) -> str:
    """Return ``method`` if it is a clone method; raises `VirtrootError` otherwise."""
    if method not in METHODS:
        raise VirtrootError(f"invalid clone method {method!r}", f"use --clone with {', '.join(METHODS)}")
    return method


def guess_methods(kind: str, *, btrfs: bool) -> list[str]:
    """Return the methods that a pool on a file system of type ``kind`` probably supports, best first.

    ``btrfs`` says whether the program ``btrfs`` is installed. Only a trial is reliable, and it writes to the pool.
    """
    found = ["snapshot"] if kind == "btrfs" and btrfs else []
    found += ["reflink"] if kind in {"btrfs", "xfs"} else []
    return [*found, *([] if kind in {"btrfs", "overlay"} else ["overlay"]), "copy"]


def choose_method(target: Target, pool: str, asked: str, *, source: str = "") -> str:
    """Return the best clone method for a root in ``pool``, or ``asked`` if it is not ``auto``.

    ``source`` is the tree to clone, if it exists already. Raises `VirtrootError` if the pool's file system does not
    support the method ``asked``.
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
        # virtiofsd takes two directories with the same inode number for one.
        _refuse(asked, pool, "needs unique inode numbers, and btrfs numbers the inodes of each subvolume separately")
    if asked == "overlay" and set(pool) & set(",:\\"):
        _refuse(asked, pool, "does not support directories with one of , : \\ in their names")
    return "copy" if asked == "auto" else asked


def _refuse(asked: str, pool: str, why: str) -> str:
    raise VirtrootError(f"--clone {asked} in {pool}: {asked} {why}", "use --clone auto, which takes a supported method")


def clone(target: Target, method: str, source: str, root: str, *, nested: bool = False) -> None:
    """Make ``root`` from the tree ``source`` by ``snapshot``, ``reflink`` or ``copy``; raises `VirtrootError`.

    ``nested`` says that there may be subvolumes inside ``source``.
    """
    if method == "snapshot":
        subvolume.snapshot(target, source, root, nested=nested)
        return
    programs.check_path_length(target, source, root)
    subvolume.make(target, root)
    reflink = {"reflink": "always", "copy": "never"}[method]
    argv = [*_COPY, f"--reflink={reflink}", "--no-target-directory", "--", source, root]
    _copy(target, argv, source)


def _copy(target: Target, argv: list[str], source: str) -> None:
    done = target.run(argv, check=False)
    if done.returncode:
        raise VirtrootError(f"cannot copy {source}", "check whether the disk is full", done.complaint)


def copy_layers(target: Target, source: str, root: str) -> None:
    """Make the directory ``root`` with a copy of the layers in ``source``; the layers of neither are mounted."""
    for name in ("upper", "work"):
        programs.check_path_length(target, f"{source}/{name}", f"{root}/{name}")
    target.run(["mkdir", "--mode=0700", "--", root])
    # One cp for both: the index of overlayfs in work has hard links to the files in upper.
    _copy(target, [*_COPY, "--reflink=auto", "--", f"{source}/upper", f"{source}/work", f"{root}/"], source)
    programs.detach_layers(target, root)


def make_layer(target: Target, tree: BaseTree, root: str) -> None:
    """Make ``root`` as a layer on top of a base tree, and mount it."""
    target.run(["sh", "-ec", _LAYERS, "layers", root, tree.tree])
    programs.mount_layers(target, root, tree.path, tree.digest)
