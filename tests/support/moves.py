"""The plan of a guest's move between roots of which there are only surveys."""

from __future__ import annotations

from pipelines.host import lines
from pipelines.merge import moving
from pipelines.merge.moving import Choices, Move
from pipelines.merge.pristine import Survey


def moved(base: Survey, ours: Survey, theirs: Survey, choices: Choices | None = None) -> Move:
    read = (ours.contents.get, theirs.contents.get)
    return moving.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merged)
