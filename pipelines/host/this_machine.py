"""This machine's memory, and whether an engine that was asked about its own machine means this one."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def memory(field: str) -> int:
    """Return a field of /proc/meminfo (``MemTotal``, ``MemAvailable``) in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def is_the_one(info: Mapping[str, Any]) -> bool:
    """Say whether an engine's ``info`` describes this machine; a forwarded socket looks local and is not."""
    here = {"Name": platform.node(), "KernelVersion": platform.release(), "MemTotal": memory("MemTotal")}
    return all(info.get(key) == value for key, value in here.items())
