"""Finds the process that holds a lock file."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd


def find_holder(path: str) -> str:
    """Return the process that has locked the file ``path``, its user and its command line; empty if none is found.

    The open files of all processes are read, and not /proc/locks: a process can hold a lock that another one took and
    passed to it.
    """
    for entry in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry) == path and "FLOCK" in _read(entry.replace("/fd/", "/fdinfo/")):
                return _describe(entry.split("/")[2])
    return ""


def _describe(process: str) -> str:
    words = _read(f"/proc/{process}/cmdline").split("\0")
    if words[0] == "cat":
        # It holds the lock for the task that started it, which would go on without cat.
        process = _read(f"/proc/{process}/stat").rpartition(")")[2].split(" ")[2]
        words = _read(f"/proc/{process}/cmdline").split("\0")
    owner = os.stat(f"/proc/{process}").st_uid
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    return f"process {process} of {name}, {' '.join(words).strip(' ')[:120]}"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
