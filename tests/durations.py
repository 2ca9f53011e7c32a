"""How long each file of tests takes: files start longest first where several processes test.

`durations.json` has the seconds of each file. It is written from a JUnit file of `./inv test`, which keeps the seconds
of files that the report does not have:

    python -m tests.durations output/.tests/junit.xml
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")


def read() -> dict[str, float]:
    """Return the recorded seconds by file."""
    recorded: dict[str, float] = json.loads(RECORD.read_text(encoding="utf-8"))
    return recorded


def sort_longest_first(items: list[pytest.Item], seconds: Mapping[str, float]) -> None:
    """Order tests by the seconds that their files take; a file that is not recorded may take any time, so it is first.

    Tests of one file stay in their order, and so do files that take the same time.
    """
    items.sort(key=lambda item: -seconds.get(_file(item.nodeid), float("inf")))


def sums(durations: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the seconds of each file, longest first, from those of its tests' node ids."""
    total = Counter[str]()
    for nodeid, seconds in durations:
        total[_file(nodeid)] += seconds  # type: ignore[assignment] # a Counter adds up floats, too
    return sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))


def read_junit(text: str) -> dict[str, float]:
    """Return the seconds of each file that a JUnit report has tests of."""
    cases = ET.fromstring(text).iter("testcase")  # noqa: S314 - pytest wrote it
    named = ((case.get("classname", ""), float(case.get("time", "0"))) for case in cases)
    return dict(sums((f"{name.replace('.', '/')}.py", seconds) for name, seconds in named if name))


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def main(report: str) -> None:
    """Write the record, with what ``report`` says of each file."""
    merged = {**read(), **read_junit(Path(report).read_text(encoding="utf-8"))}
    there = {file: round(seconds, 1) for file, seconds in sorted(merged.items()) if (CHECKOUT / file).is_file()}
    RECORD.write_text(json.dumps(there, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
