"""This machine's memory, this process's niceness, and whether an engine's own machine is this one."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.text import split_fields, split_lines


def memory(field: str) -> int:
    """Return a field of /proc/meminfo (``MemTotal``, ``MemAvailable``) in bytes."""
    for line in split_lines(Path("/proc/meminfo").read_text()):
        if line.startswith(f"{field}:"):
            return int(split_fields(line)[1]) * 1024
    return 0


def cpu_shares() -> int | None:
    """Return the weight among containers, 1024 for most, of one that works for a process as nice as this; None if not.

    The engine starts containers, so that they do not inherit it.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    # The kernel weighs processes so: a step of niceness is a quarter more or less.
    return max(2, round(1024 / 1.25**niceness)) if niceness > 0 else None


def is_the_one(info: Mapping[str, Any]) -> bool:
    """Say whether an engine's ``info`` describes this machine; a forwarded socket looks local and is not."""
    here = {"Name": platform.node(), "KernelVersion": platform.release(), "MemTotal": memory("MemTotal")}
    return all(info.get(key) == value for key, value in here.items())
