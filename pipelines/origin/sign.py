"""A sign of a system's former environment, and how to find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sign:
    """A sign, how to find it (see `pipelines.target.payload.signs.find`), and what the import does about it.

    ``said`` is the message for the user, in which ``{paths}``, ``{names}`` and ``{found}`` are replaced by the paths,
    their last components and the matching texts. ``verb`` is a verb of `import-root`, called with ``arguments`` and the
    paths. Without a verb ``said`` is a warning; if that is empty, the sign is only a fact for other rules. ``remedy``
    is the doctor's advice for an installed guest with the sign; without it, the doctor ignores the sign.
    """

    name: str
    origin: str
    paths: tuple[str, ...] = ()
    said: str = ""
    verb: str = ""
    arguments: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    pattern: str = ""
    masked: bool = False
    inert: bool = False
    unless: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def query(self) -> dict[str, Any]:
        """The data to find the sign."""
        return {
            "paths": self.paths, "units": self.units, "pattern": self.pattern, "masked": self.masked,
            "inert": self.inert, "unless": self.unless,
        }  # fmt: skip
