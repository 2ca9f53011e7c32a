"""The plan of a guest's move between roots of which there are only surveys."""

from __future__ import annotations

from pipelines.guest import moving
from pipelines.guest.moving import Choices, Move
from pipelines.guest.pristine import Survey
from pipelines.host import lines


def moved(base: Survey, ours: Survey, theirs: Survey, choices: Choices | None = None) -> Move:
    read = (ours.contents.get, theirs.contents.get)
    return moving.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merged)
