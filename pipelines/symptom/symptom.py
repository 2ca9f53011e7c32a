"""A symptom: the text that a failure of a guest on virtiofs prints, its cause and its remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Symptom:
    """A known failure.

    ``name`` is its anchor in the book, and the topic for `./inv help`. ``heading`` is the text that users see and
    search for. ``pattern`` finds it in a plain text; each of its repetitions has an upper bound, because a guest may
    write any text. ``cause`` and ``remedy`` are one line each; ``{name}`` in the remedy stands for the guest's name.
    With ``comes_up``, guests that boot can show it, so it does not explain a guest that does not boot.
    """

    name: str
    heading: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    comes_up: bool = False

    def format_error(self, seen: str) -> str:
        """Return the message of an error: the cause, and then the observation ``seen``."""
        return f"{self.cause}: {seen}"

    def format_hint(self, guest: str) -> str:
        """Return the hint of an error: the remedy for ``guest``, and the page of the book."""
        return f"{self.remedy.replace('{name}', guest)}; more: ./inv help {self.name}"
