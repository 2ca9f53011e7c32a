"""Plans of what is carried from one root into another."""

from __future__ import annotations

from typing import cast

from pipelines.target.payload.copy_plan import CopyPlan


def plan(**what: object) -> CopyPlan:
    nothing: dict[str, object] = {
        "removals": [],
        "copies": [],
        "trees": [],
        "left": [],
        "untouched": [],
        "whole": [],
        "foreign": [],
        "empty": [],
        "writes": [],
        "selections": {},
        "users": {},
        "groups": {},
    }
    return cast("CopyPlan", {**nothing, **what})
