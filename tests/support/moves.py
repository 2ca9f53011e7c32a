"""The plan of a guest's move between roots of which there are only surveys."""

from __future__ import annotations

from pipelines.host import lines
from pipelines.merge import upgrade_plan
from pipelines.merge.baselines import Inventory
from pipelines.merge.choices import Choices
from pipelines.merge.upgrade_plan import UpgradePlan


def moved(base: Inventory, ours: Inventory, theirs: Inventory, choices: Choices | None = None) -> UpgradePlan:
    read = (ours.contents.get, theirs.contents.get)
    return upgrade_plan.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merge)
