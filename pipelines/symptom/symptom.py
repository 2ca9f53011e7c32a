"""A symptom: what somebody writes when a guest on virtiofs does not work, what causes it, and what helps."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Symptom:
    """One way of failing that is known.

    ``name`` is its anchor in the book and what `./inv help` takes, ``heading`` the text as people see it and search for
    it. ``pattern`` finds it in a text that is plain; each of its repetitions has a bound, for a guest may write any
    text. ``cause`` and ``remedy`` are a line each; ``{name}`` in the remedy is the guest's. A guest that ``comes_up``
    all the same shows it later: it is no reason for one that does not.
    """

    name: str
    heading: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    comes_up: bool = False

    def what(self, seen: str) -> str:
        """Return the line of an error that says the cause first, and then what was ``seen`` of it."""
        return f"{self.cause}: {seen}"

    def hint(self, guest: str) -> str:
        """Return what to do about it in ``guest``, and where to read more."""
        return f"{self.remedy.replace('{name}', guest)}; more: ./inv help {self.name}"
