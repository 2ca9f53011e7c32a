"""This machine's memory, the CPU weight of this process, and whether an engine runs on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.text import split_fields, split_lines


def read_memory(field: str) -> int:
    """Return a field of /proc/meminfo (``MemTotal``, ``MemAvailable``) in bytes."""
    for line in split_lines(Path("/proc/meminfo").read_text()):
        if line.startswith(f"{field}:"):
            return int(split_fields(line)[1]) * 1024
    return 0


def compute_cpu_shares() -> int | None:
    """Return the CPU weight of a container for this process's niceness, None for the default weight of 1024.

    The engine starts containers, so they do not inherit the niceness.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    # In the kernel's scheduler, each step of niceness changes the weight by a factor of 1.25.
    return max(2, round(1024 / 1.25**niceness)) if niceness > 0 else None


def is_engine_host(info: Mapping[str, Any]) -> bool:
    """Return whether an engine's ``info`` describes this machine. A forwarded socket looks local, but is not."""
    here = {"Name": platform.node(), "KernelVersion": platform.release(), "MemTotal": read_memory("MemTotal")}
    return all(info.get(key) == value for key, value in here.items())
