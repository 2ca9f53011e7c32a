#!/usr/bin/env python3
"""Says what libvirt's machine has of what guests need, as JSON. Runs beside libvirt, with nothing but Python's library.

It only reads: nothing is made, locked, mounted or started. What is to be looked at comes as JSON on standard input,
with the text of `handover`, whose way to open what a guest wrote is the only one, and that of `signs`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PROGRAMS = ("python3", "tar", "zstd", "flock", "bwrap", "btrfs", "virsh")

_DAEMONS = ("libvirtd", "virtqemud")

#: Where programs that serve QEMU are described; of two of one name the first is taken.
_DESCRIPTIONS = ("/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user")

#: AppArmor's profiles of libvirt's daemons, and what an administrator adds to them.
_PROFILES = ("usr.sbin.libvirtd", "usr.sbin.virtqemud", "libvirtd", "virtqemud")

_SYS_RESOURCE = 1 << 24


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of everything ``asked``; see the functions below for the parts."""
    handover, signs = _module("handover", asked["handover"]), _module("signs", asked["signs"])
    processes = list(_processes())
    roots = {guest["root"] for guest in asked["guests"].values()}
    return {
        "user": os.geteuid(),
        "openat2": _has_openat2(handover),
        "boot_file_mode": handover.boot_file_mode(),
        "programs": {name: shutil.which(name) or "" for name in _PROGRAMS},
        "daemons": [each for each in processes if each["name"] in _DAEMONS],
        "virtiofsds": [each for each in processes if each["name"] == "virtiofsd"],
        "descriptions": _descriptions(),
        "security": _security(),
        "files": {path: _file(path) for path in asked["files"]},
        # What a guest has in its own / may be more than fits into an answer, and is not looked at.
        "directories": {path: _directory(path, listed=path not in roots) for path in asked["directories"]},
        "held": _held(asked["locks"]),
        "mounts": [[point, kind] for point, kind, _ in _mounts()],
        "guests": {name: _guest_or_why(handover, guest, signs) for name, guest in asked["guests"].items()},
    }


def _module(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(source, module.__dict__)  # noqa: S102 - virtroot's own, sent along
    return module


def _has_openat2(handover: types.ModuleType) -> bool:
    """Say whether this kernel opens paths beneath a directory; a container's filter may keep it from that."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(handover.open_beneath(root, ".", os.O_PATH | os.O_DIRECTORY))
    except handover.Refused:
        return False
    finally:
        os.close(root)
    return True


def _processes() -> Iterator[dict[str, Any]]:
    """Yield what is known of libvirt's daemons and of virtiofsd, of those that still run when they are looked at.

    ``files`` is how many files a process may have open, ``raises`` whether it may lift that itself, ``open`` how many
    it has; None where that is not to be seen. ``since`` is in seconds of the epoch.
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
    # A carriage return in a process's name is no end of a line.
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def _descriptions() -> list[dict[str, Any]]:
    """Return the descriptions of programs that serve file systems, in the order that libvirt asks them."""
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
    """Return what else than owners and modes decides: ``apparmor`` says that it is on, ``selinux`` that it enforces.

    ``profiles`` is the text of AppArmor's profiles of libvirt's daemons, by path.
    """
    said = {}
    for name, path in (("apparmor", "/sys/module/apparmor/parameters/enabled"), ("selinux", "/sys/fs/selinux/enforce")):
        try:
            said[name] = _text(path).strip("\n")
        except OSError:
            said[name] = ""
    profiles = {}
    for name in _PROFILES:
        for path in (f"/etc/apparmor.d/{name}", f"/etc/apparmor.d/local/{name}"):
            with contextlib.suppress(OSError):
                profiles[path] = _text(path)
    return {"apparmor": said["apparmor"] == "Y", "selinux": said["selinux"], "profiles": profiles}


def _file(path: str) -> dict[str, Any] | None:
    """Return digest and mode of a file of the host's own; None where it is missing."""
    try:
        with open(path, "rb") as content:
            digest = hashlib.sha256(content.read()).hexdigest()
            return {"sha256": digest, "mode": os.fstat(content.fileno()).st_mode & 0o7777}
    except OSError:
        return None


def _directory(path: str, *, listed: bool = True) -> dict[str, Any] | None:
    """Return what is known of a directory, its file system and, if ``listed``, its entries; None where it is missing.

    ``closed_above`` is the first directory above it that not everybody may enter, empty for none. Sizes are in bytes.
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


def _mounts() -> list[tuple[str, str, list[str]]]:
    """Return the mount points, the type of each file system and its options."""
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        return parse_mounts(mountinfo.read())


def parse_mounts(mountinfo: bytes) -> list[tuple[str, str, list[str]]]:
    """Return what the text of proc_pid_mountinfo(5) says.

    Lines end at newlines and fields at single spaces only; the kernel writes those in names in octal.
    """
    found = []
    for line in os.fsdecode(mountinfo).split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        found.append((point, after.split(" ")[0], fields[5].split(",")))
    return found


def _mounted_at(path: str) -> tuple[str, list[str]]:
    """Return type and options of the file system that ``path`` is on."""
    real = os.path.realpath(path)
    found: tuple[str, str, list[str]] = ("", "", [])
    for each in _mounts():
        # Of those at one point the last hides the ones before it.
        if len(each[0]) >= len(found[0]) and (real == each[0] or real.startswith(each[0].rstrip("/") + "/")):
            found = each
    return found[1], found[2]


def _held(directories: Sequence[str]) -> list[str]:
    """Return those ``directories``, and files in them, that somebody holds; to ask for a lock would hold it, too.

    Only who has one open tells: a lock that flock(1) took for its caller is in /proc/locks by a process that is gone.
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


def _guest_or_why(handover: types.ModuleType, asked: Mapping[str, Any], signs: types.ModuleType) -> dict[str, Any]:
    """Return what is known of a guest, or as ``unread`` why nothing is: that hides nothing of the other guests."""
    try:
        return _guest(handover, asked, signs)
    except Exception as error:
        return {"unread": str(error) or type(error).__name__}


def _guest(handover: types.ModuleType, asked: Mapping[str, Any], signs: types.ModuleType) -> dict[str, Any]:
    """Return what is known of a guest's root, boot directory and shares."""
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
    found["layers"] = any(point == root and kind == "overlay" for point, kind, _ in _mounts())
    found["boot"] = _mode(boot)
    found["files"] = {name: _mode(f"{boot}/{name}") for name in ("kernel", "initrd")}
    found["release"] = handover.release(f"{boot}/kernel")
    found["shares"] = {path: os.path.realpath(path) if os.path.isdir(path) else "" for path in asked["shares"]}
    if found["directory"]:
        handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found["fstab"] = _fstab(handover, handle)
            found["usr"] = _is_directory(handover, handle, "usr")
            found["signs"] = signs.find(handover, handle, asked.get("signs", {}))
            for name in ("kernel", "initrd"):
                if asked[name]:
                    found[name] = _compared(handover, handle, asked[name], f"{boot}/{name}")
        finally:
            os.close(handle)
    return found


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode & 0o7777
    except OSError:
        return None


def _fstab(handover: types.ModuleType, root: int) -> str | None:
    """Return the text of a root's fstab; None where it is missing, or no file that can be read."""
    try:
        descriptor = handover.open_regular(root, "etc/fstab", handover.LARGEST_READ)
    except (handover.Refused, OSError):
        return None
    with os.fdopen(descriptor, "rb") as content:
        return str(content.read(handover.LARGEST_READ).decode(errors="replace"))


def _is_directory(handover: types.ModuleType, root: int, path: str) -> bool:
    try:
        os.close(handover.open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, links=False))
    except handover.Refused:
        return False
    return True


def _compared(handover: types.ModuleType, root: int, path: str, copy: str) -> dict[str, Any]:
    """Return whether a file of a root can be handed over, and whether ``copy`` is what it is.

    ``refused`` says why it cannot, and is empty where it can; ``same`` is None where there is no copy.
    """
    try:
        descriptor = handover.open_regular(root, path, handover.LARGEST_BOOT_FILE)
    except (handover.Refused, OSError) as error:
        return {"refused": str(error), "same": None}
    with os.fdopen(descriptor, "rb") as content:
        try:
            with open(copy, "rb") as copied:
                same = _same(content, copied, handover.LARGEST_BOOT_FILE)
        except OSError:
            return {"refused": "", "same": None}
    return {"refused": "", "same": same}


def _same(one: Any, other: Any, most: int) -> bool:
    """Compare two open files, of which a guest may let one grow meanwhile."""
    while most >= 0:
        mine, its = one.read(1 << 20), other.read(1 << 20)
        if mine != its:
            return False
        if not mine:
            return True
        most -= len(mine)
    return False


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(json.load(sys.stdin))))
