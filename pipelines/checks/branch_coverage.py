"""Branch coverage: how a run of tests is measured, and what is printed of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: A module with fewer statements has a low percentage by one branch.
_STATEMENTS = 20
_LEAST = 5


def list_options(report: Path) -> list[str]:
    """Return the options with which pytest measures, in each process of pytest-xdist, and writes ``report``."""
    return ["--cov=pipelines", "--cov-branch", f"--cov-report=json:{report}"]


def describe(report: Mapping[str, Any]) -> str:
    """Return the total and the least covered modules, a line each; ``report`` is JSON of coverage.py."""
    totals = report["totals"]
    modules = sorted(
        (each["summary"]["percent_covered"], name, each["summary"]["num_statements"])
        for name, each in report["files"].items()
        if each["summary"]["num_statements"] > _STATEMENTS
    )
    total = (
        f"coverage: {totals['percent_covered']:.1f} %, {totals['covered_lines']} of {totals['num_statements']} "
        f"statements and {totals['covered_branches']} of {totals['num_branches']} branches; least covered:"
    )
    least = [f"{percent:6.1f} %  {name} ({count} statements)" for percent, name, count in modules[:_LEAST]]
    return "\n".join([total, *least])
