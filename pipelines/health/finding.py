"""Findings: the result of one check, whether it is as it should be, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.text import one_line

#: What `programs.collect_facts` found on libvirt's host, or a part of it.
Facts = Mapping[str, Any]

#: The function that applies a fix.
Action = Callable[[], object]


@dataclass(frozen=True)
class Fix:
    """A fix without risk: ``says`` describes it, ``do`` applies it.

    ``do`` checks again what it is about to change, and raises `VirtrootError` if it fails.
    """

    says: str
    do: Action


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``of`` says of what, ``name`` which check, ``says`` what it found.

    Only a fault that is ``needed`` makes `doctor` fail. ``do`` is one line with the remedy for a finding that is not
    ``ok``; ``fix`` is set if virtroot can apply it. The texts may quote what a guest wrote: they are plain text in
    one line.
    """

    of: str
    name: str
    ok: bool
    needed: bool
    says: str
    do: str = ""
    fix: Fix | None = None


def fine(of: str, name: str, says: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(of, name, True, False, one_line(says))


def fault(of: str, name: str, says: str, do: str, *, needed: bool = True, fix: Fix | None = None) -> Finding:
    """Return the finding that something is not as it should be; with ``needed``, virtroot does not work without it."""
    return Finding(of, name, False, needed, one_line(says), one_line(do), fix)


def is_scarce(free: int, total: int, least: int = 1 << 30) -> bool:
    """Return whether less than ``least`` or a twentieth of ``total`` is free; a total of 0 means no limit."""
    return total > 0 and (free < least or free * 20 < total)
