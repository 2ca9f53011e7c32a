"""Mounts a guest's root of two layers with overlayfs: a base tree below, and the guest's own changes above.

The directory of such a root contains ``upper`` and ``work``; overlayfs is mounted over it. A lower layer that differs
from the one that the upper one was begun on gives a tree that nobody wrote. So the digest of the base tree is compared
before each mount.
"""

from __future__ import annotations

import ctypes
import hashlib
import os

from . import beneath, mountinfo
from .errors import Refused
from .walk import descend

#: The layers have to be mounted with the options that they were begun with, so none is left to the kernel's default.
_OPTIONS = "index=on,nfs_export=on,redirect_dir=on,metacopy=off"

_NOSUID, _NODEV = 2, 4

#: The attribute in which overlayfs keeps the file handle of an upper directory.
_UPPER = "trusted.overlay.upper"

#: The name of the tree in the directory of a base tree.
TREE = "root"


def digest(tree: str) -> str:
    """Return a sha256 that differs for another tree, and for the same tree after a change.

    It covers what lstat(2) returns: inodes, because overlayfs identifies files by them, and the times of the last
    change, which no program can set. So the contents need not be read.
    """
    found = hashlib.sha256()

    def add(path: str, status: os.stat_result) -> None:
        who = f"{status.st_ino} {status.st_mode} {status.st_uid} {status.st_gid} {status.st_size}"
        when = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        found.update(f"{path}\0{who} {when}\0".encode(errors="surrogateescape"))

    with beneath.opened(tree, beneath.DIRECTORY) as top:
        add("", os.fstat(top))
        for directory, name, status in descend(top):
            add("/".join(["", *directory.parts, name]), status)
    return found.hexdigest()


def is_mounted(root: str) -> bool:
    """Say whether the layers of a root are mounted; raises `Refused` if another file system is mounted there."""
    kinds = [mount.kind for mount in mountinfo.read() if mount.point == root]
    if kinds and kinds != ["overlay"]:
        raise Refused(f"{' and '.join(kinds)} is mounted at {root}")
    return bool(kinds)


def options(root: str, lower: str) -> str:
    """Return overlayfs's options for the layers of ``root`` over the tree ``lower``."""
    return f"lowerdir={lower},upperdir={root}/upper,workdir={root}/work,{_OPTIONS}"


def mount(root: str, golden: str, lower: str) -> None:
    """Mount the layers of ``root`` over the base tree in the directory ``golden``, whose `digest` must be ``lower``."""
    tree = os.path.join(golden, TREE)
    if not os.path.isdir(tree) or digest(tree) != lower:
        raise Refused(f"the base tree {golden} is not the one that {root} was made on")
    if is_mounted(root):
        return
    for name in ("upper", "work"):
        if not os.path.isdir(os.path.join(root, name)) or os.path.islink(os.path.join(root, name)):
            raise Refused(f"{root} has no layer {name}")
    libc = ctypes.CDLL(None, use_errno=True)
    data = os.fsencode(options(root, tree))
    if libc.mount(b"virtroot", os.fsencode(root), b"overlay", ctypes.c_ulong(_NOSUID | _NODEV), data):
        raise Refused(f"cannot mount the layers of {root}: {os.strerror(ctypes.get_errno())}; see dmesg")


def unmount(root: str) -> None:
    """Unmount the layers of ``root`` if they are mounted."""
    if not is_mounted(root):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(root), 0):
        raise Refused(f"cannot unmount the layers of {root}: {os.strerror(ctypes.get_errno())}")


def detach_copy(root: str) -> None:
    """Delete from copied layers the reference to the original ones. Otherwise overlayfs refuses to mount them.

    overlayfs's index refers to the directories of the upper layer by file handles. overlayfs finds them again.
    """
    index = os.path.join(root, "work", "index")
    if not os.path.isdir(index):
        return
    for path in (index, *(entry.path for entry in os.scandir(index) if entry.is_dir(follow_symlinks=False))):
        if _UPPER in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, _UPPER, follow_symlinks=False)
