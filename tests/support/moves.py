"""Plans of upgrades and rollbacks between roots that exist as inventories only."""

from __future__ import annotations

from pipelines.host import lines
from pipelines.merge import upgrade_plan
from pipelines.merge.baselines import Inventory
from pipelines.merge.choices import Choices
from pipelines.merge.upgrade_plan import UpgradePlan


def moved(base: Inventory, ours: Inventory, theirs: Inventory, choices: Choices | None = None) -> UpgradePlan:
    """Return the plan of an upgrade from the root ``ours``, built as ``base``, to ``theirs``."""
    read = (ours.contents.get, theirs.contents.get)
    return upgrade_plan.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merge)


def moved_back(base: Inventory, ours: Inventory, theirs: Inventory, choices: Choices | None = None) -> UpgradePlan:
    """Return the plan of a rollback to the previous root ``theirs``."""
    read = (ours.contents.get, theirs.contents.get)
    return upgrade_plan.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merge, is_previous=True)
