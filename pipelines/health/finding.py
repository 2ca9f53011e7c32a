"""Findings: one thing that was looked at each, whether it is as it should be, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.text import one_line

#: What `programs.collect_facts` found on libvirt's host, or a part of it.
Facts = Mapping[str, Any]

#: What a fix does.
Doing = Callable[[], object]


@dataclass(frozen=True)
class Fix:
    """What can be done about a finding without risk: ``says`` in words, and the call that does it.

    The call looks again at what it is about to change. It raises `VirtrootError` where it cannot.
    """

    says: str
    do: Doing


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``of`` says on what, ``name`` which thing, ``says`` what is.

    Only ``needed`` ones stop the work. ``do`` is what to do about one that is not ``ok``, in a line; ``fix`` is there
    where virtroot can do it itself. What is said may quote what a guest wrote: it is plain, and one line.
    """

    of: str
    name: str
    ok: bool
    needed: bool
    says: str
    do: str = ""
    fix: Fix | None = None


def fine(of: str, name: str, says: str) -> Finding:
    """Return the finding that a thing is as it should be."""
    return Finding(of, name, True, False, one_line(says))


def fault(of: str, name: str, says: str, do: str, *, needed: bool = True, fix: Fix | None = None) -> Finding:
    """Return the finding that a thing is not as it should be; where it is not ``needed``, the work goes on."""
    return Finding(of, name, False, needed, one_line(says), one_line(do), fix)


def scarce(free: int, total: int, least: int = 1 << 30) -> bool:
    """Say whether less than ``least`` or a twentieth of ``total`` is free; a total of 0 stands for no limit."""
    return total > 0 and (free < least or free * 20 < total)
