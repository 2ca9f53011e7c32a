"""Collects facts about libvirt's host for `doctor`, and changes nothing: it makes, locks, mounts and starts nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import beneath, mountinfo
from .errors import Refused
from .guest_facts import describe_guest_or_reason
from .kernel_copy import boot_file_mode

_PROGRAMS = ("python3", "tar", "zstd", "flock", "bwrap", "btrfs", "virsh")

_DAEMONS = ("libvirtd", "virtqemud")

#: Where programs that serve QEMU are described; of two of one name the first is taken.
_DESCRIPTIONS = ("/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user")

#: AppArmor's profiles of libvirt's daemons, and what an administrator adds to them.
_PROFILES = ("usr.sbin.libvirtd", "usr.sbin.virtqemud", "libvirtd", "virtqemud")

_SYS_RESOURCE = 1 << 24


def collect(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about everything in ``asked``; see the functions below for the parts."""
    processes = list(_processes())
    roots = {guest["root"] for guest in asked["guests"].values()}
    return {
        "user": os.geteuid(),
        "openat2": _has_openat2(),
        "boot_file_mode": boot_file_mode(),
        "programs": {name: shutil.which(name) or "" for name in _PROGRAMS},
        "daemons": [each for each in processes if each["name"] in _DAEMONS],
        "virtiofsds": [each for each in processes if each["name"] == "virtiofsd"],
        "descriptions": _descriptions(),
        "security": _security(),
        "files": {path: _file(path) for path in asked["files"]},
        # A guest can put more entries into its / than fit into an answer, so those are not listed.
        "directories": {path: _directory(path, listed=path not in roots) for path in asked["directories"]},
        "held": _find_held(asked["locks"]),
        "mounts": [[mount.point, mount.kind] for mount in mountinfo.read()],
        "guests": {name: describe_guest_or_reason(guest) for name, guest in asked["guests"].items()},
    }


def _has_openat2() -> bool:
    """Say whether this kernel opens paths beneath a directory; a container's filter of system calls can prevent it."""
    with beneath.opened("/") as root:
        try:
            os.close(beneath.open_beneath(root, ".", beneath.PATH))
        except Refused:
            return False
    return True


def _processes() -> Iterator[dict[str, Any]]:
    """Yield the processes of libvirt's daemons and of virtiofsd.

    ``files`` is the limit of open files, ``most`` its hard limit, ``raises`` whether the process may raise that, and
    ``open`` the number of its open files; None if it cannot be read. ``since`` is in seconds of the epoch.
    """
    began = _boot_time()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            arguments = _text(f"/proc/{pid}/cmdline").split("\0")
            name = os.path.basename(arguments[0])
            if name not in (*_DAEMONS, "virtiofsd"):
                continue
            limit = re.search(r"^Max open files +(\w+) +(\w+)", _text(f"/proc/{pid}/limits"), re.MULTILINE)
            effective = re.search(r"^CapEff:\s*(\w+)", _text(f"/proc/{pid}/status"), re.MULTILINE)
            ticks = int(_text(f"/proc/{pid}/stat").rpartition(") ")[2].split(" ")[19])
            yield {
                "name": name,
                "pid": int(pid),
                "arguments": arguments[1:],
                "since": began + ticks / os.sysconf("SC_CLK_TCK"),
                "files": _limit(limit[1]) if limit else None,
                "most": _limit(limit[2]) if limit else None,
                "raises": bool(effective and int(effective[1], 16) & _SYS_RESOURCE),
                "open": _count(f"/proc/{pid}/fd"),
            }


def _boot_time() -> float:
    found = re.search(r"^btime (\d+)", _text("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _limit(word: str) -> int:
    return sys.maxsize if word == "unlimited" else int(word)


def _count(directory: str) -> int | None:
    try:
        return len(os.listdir(directory))
    except OSError:
        return None


def _text(path: str) -> str:
    # A carriage return in the name of a process does not end a line.
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def _descriptions() -> list[dict[str, Any]]:
    """Return the descriptions of programs that serve file systems, in the order in which libvirt reads them."""
    found: dict[str, str] = {}
    for directory in _DESCRIPTIONS:
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                if name.endswith(".json"):
                    found.setdefault(name, os.path.join(directory, name))
    described = []
    for name in sorted(found):
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(_text(found[name]))
            if isinstance(said, dict) and said.get("type") == "fs":
                binary = str(said.get("binary", ""))
                described.append({"path": found[name], "binary": binary, "runs": os.access(binary, os.X_OK)})
    return described


def _security() -> dict[str, Any]:
    """Return whether AppArmor is on (``apparmor``) and SELinux's mode (``selinux``, "1" if it enforces).

    ``profiles`` are the texts of AppArmor's profiles of libvirt's daemons, by path.
    """
    modes = {}
    for name, path in (("apparmor", "/sys/module/apparmor/parameters/enabled"), ("selinux", "/sys/fs/selinux/enforce")):
        try:
            modes[name] = _text(path).strip("\n")
        except OSError:
            modes[name] = ""
    profiles = {}
    for name in _PROFILES:
        for path in (f"/etc/apparmor.d/{name}", f"/etc/apparmor.d/local/{name}"):
            with contextlib.suppress(OSError):
                profiles[path] = _text(path)
    return {"apparmor": modes["apparmor"] == "Y", "selinux": modes["selinux"], "profiles": profiles}


def _file(path: str) -> dict[str, Any] | None:
    """Return digest and mode of a file of the host; None if it does not exist."""
    try:
        with open(path, "rb") as content:
            digest = hashlib.sha256(content.read()).hexdigest()
            return {"sha256": digest, "mode": os.fstat(content.fileno()).st_mode & 0o7777}
    except OSError:
        return None


def _directory(path: str, *, listed: bool = True) -> dict[str, Any] | None:
    """Describe a directory, its file system and, if ``listed``, its entries; None if it does not exist.

    ``closed_above`` is the first parent directory that some users may not enter, empty for none. Sizes are in bytes.
    """
    try:
        status, system = os.lstat(path), os.statvfs(path)
    except OSError:
        return None
    kind, options = _mounted_at(path)
    entries = []
    if listed:
        with contextlib.suppress(OSError), os.scandir(path) as found:
            entries = sorted((each.name, each.is_dir(follow_symlinks=False)) for each in found)
    above = [path[: match.start()] or "/" for match in re.finditer("/", path)]
    return {
        "directory": stat.S_ISDIR(status.st_mode),
        "mode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "changed": status.st_mtime,
        "kind": kind,
        "options": options,
        "free": system.f_bavail * system.f_frsize,
        "size": system.f_blocks * system.f_frsize,
        "free_inodes": system.f_favail,
        "inodes": system.f_files,
        "entries": entries,
        "closed_above": next((each for each in above if not os.stat(each).st_mode & 0o001), ""),
    }


def _mounted_at(path: str) -> tuple[str, list[str]]:
    """Return type and options of the file system of ``path``."""
    real = os.path.realpath(path)
    found = mountinfo.Mount("", "", [])
    for mount in mountinfo.read():
        # Of several mounts at one point the last one hides the others.
        if len(mount.point) >= len(found.point) and f"{real}/".startswith(f"{mount.point.rstrip('/')}/"):
            found = mount
    return found.kind, found.options


def _find_held(directories: Sequence[str]) -> list[str]:
    """Return the ``directories``, and the files in them, that a process has locked. To try a lock would take it.

    The open files of all processes are read: flock(1) takes a lock for its caller, and /proc/locks shows that lock with
    a process that has exited.
    """
    held = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                held.update(_held_by(pid, descriptor, directories))
    return sorted(held)


def _held_by(pid: str, descriptor: str, directories: Sequence[str]) -> list[str]:
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        ours = path in directories or os.path.dirname(path) in directories
        if ours and "FLOCK" in _text(f"/proc/{pid}/fdinfo/{descriptor}"):
            return [path]
    return []
