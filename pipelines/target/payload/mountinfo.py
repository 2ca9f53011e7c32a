"""Reads the kernel's table of mounts; see proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount point, the type of its file system, and its options."""

    point: str
    kind: str
    options: list[str]


def parse(mountinfo: bytes) -> list[Mount]:
    """Return the mounts in the text of mountinfo; bytes of a path that are not UTF-8 are surrogates.

    Lines end at newlines only and fields at single spaces only. The kernel writes spaces, tabs, newlines and
    backslashes in octal, and every other byte of a name as it is.
    """
    found = []
    for line in os.fsdecode(mountinfo).split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        found.append(Mount(_unescape(fields[4]), _unescape(after.split(" ")[0]), fields[5].split(",")))
    return found


def read() -> list[Mount]:
    """Return the mounts that this process sees."""
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        return parse(mountinfo.read())


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), text)
