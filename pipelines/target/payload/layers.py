#!/usr/bin/env python3
"""Mounts a guest's root of two layers: a golden tree below, which nobody changes, and the guest's own changes above.

Runs beside libvirt, with nothing but Python's library: called by virtroot with a command and its arguments, and by
libvirt's hook, with the domain's XML on standard input, before each start.

The directory of such a root holds ``upper`` and ``work``; what is mounted over it is the root. A lower layer that is
not what the upper one was begun on gives a tree that nobody ever wrote, so its state is compared before each use.
"""

import ctypes
import hashlib
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

_NAMESPACE = "urn:virtroot:1"

#: What the layers were begun with they have to go on with, so nothing of it is left to the kernel's defaults.
_OPTIONS = "index=on,nfs_export=on,redirect_dir=on,metacopy=off"

_NOSUID, _NODEV = 2, 4

#: What overlayfs notes an upper directory's handle in.
_UPPER = "trusted.overlay.upper"

#: The tree of a golden tree's directory.
TREE = "root"


class Refused(Exception):
    """The layers are not what they have to be."""


def digest(tree: str) -> str:
    """Return the sha256 of what tells a tree from any other and from itself after a change, as lstat(2) has it.

    That includes inodes and the times of their last change, which nobody sets: overlayfs knows files by their inodes,
    and contents need not be read.
    """
    found = hashlib.sha256()
    for path, status in _entries(tree):
        who = f"{status.st_ino} {status.st_mode} {status.st_uid} {status.st_gid} {status.st_size}"
        when = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        found.update(f"{path[len(tree) :]}\0{who} {when}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


def _entries(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of ``tree`` and everything below it, in an order of their own."""
    pending = [tree]
    yield tree, os.lstat(tree)
    while pending:
        with os.scandir(pending.pop()) as listed:
            for entry in sorted(listed, key=lambda each: each.name):
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def mounted(root: str) -> bool:
    """Say whether a root's layers are mounted; raises `Refused` where anything else is mounted there."""
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        kinds = mounted_at(root, mountinfo.read())
    if kinds and kinds != ["overlay"]:
        raise Refused(f"{' and '.join(kinds)} is mounted at {root}")
    return bool(kinds)


def mounted_at(path: str, mountinfo: bytes) -> list[str]:
    """Return the types of what is mounted at ``path``, from the text of proc_pid_mountinfo(5).

    Lines end at newlines and fields at single spaces only; the kernel writes those in names in octal.
    """
    kinds = []
    for line in os.fsdecode(mountinfo).split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        if point == path:
            kinds.append(after.split(" ")[0])
    return kinds


def options(root: str, lower: str) -> str:
    """Return overlayfs's options for the layers of ``root`` over the tree ``lower``."""
    return f"lowerdir={lower},upperdir={root}/upper,workdir={root}/work,{_OPTIONS}"


def mount(root: str, golden: str, expected: str) -> None:
    """Mount the layers of ``root`` over the golden tree in the directory ``golden``, whose `digest` is ``expected``."""
    lower = os.path.join(golden, TREE)
    if not os.path.isdir(lower) or digest(lower) != expected:
        raise Refused(f"the golden tree {golden} is not what {root} was made on")
    if mounted(root):
        return
    for name in ("upper", "work"):
        if not os.path.isdir(os.path.join(root, name)) or os.path.islink(os.path.join(root, name)):
            raise Refused(f"{root} has no layer {name}")
    libc = ctypes.CDLL(None, use_errno=True)
    data = os.fsencode(options(root, lower))
    if libc.mount(b"virtroot", os.fsencode(root), b"overlay", ctypes.c_ulong(_NOSUID | _NODEV), data):
        raise Refused(f"cannot mount the layers of {root}: {os.strerror(ctypes.get_errno())}; dmesg says more")


def unmount(root: str) -> None:
    """Unmount the layers of ``root`` where they are mounted."""
    if not mounted(root):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(root), 0):
        raise Refused(f"cannot unmount the layers of {root}: {os.strerror(ctypes.get_errno())}")


def forget(root: str) -> None:
    """Make copied layers forget which ones they are a copy of: overlayfs would refuse them, or look into those.

    The index names the directories of the upper layer by their handles; it finds them anew.
    """
    index = os.path.join(root, "work", "index")
    if not os.path.isdir(index):
        return
    for path in (index, *(entry.path for entry in os.scandir(index) if entry.is_dir(follow_symlinks=False))):
        if _UPPER in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, _UPPER, follow_symlinks=False)


def hook(domain_xml: str) -> None:
    """Mount the layers of the domain that libvirt is about to start, if it has any."""
    guest = ET.fromstring(domain_xml).find(f"metadata/{{{_NAMESPACE}}}guest")  # noqa: S314 - libvirt's, on this machine
    lower = None if guest is None else guest.findtext(f"{{{_NAMESPACE}}}lower")
    if guest is not None and lower:
        root, golden = (guest.findtext(f"{{{_NAMESPACE}}}{name}") or "" for name in ("root", "golden"))
        mount(root, golden, lower)


def main(arguments: Sequence[str]) -> None:
    """Act on the command line; see the module's docstring."""
    command, *rest = arguments
    if command == "--digest":
        sys.stdout.write(digest(*rest))
    elif command == "--mount":
        mount(*rest)
    elif command == "--unmount":
        unmount(*rest)
    elif command == "--forget":
        forget(*rest)
    elif command == "--hook":
        hook(sys.stdin.read())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"virtroot: {error}")
