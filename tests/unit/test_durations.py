"""Files of tests start longest first, by what a report said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipelines.settings import CHECKOUT
from tests import durations

REPORT = """<testsuites><testsuite>
<testcase classname="tests.unit.test_book" name="a" time="1.25"/>
<testcase classname="tests.e2e.test_run" name="b" time="60"/>
<testcase classname="tests.unit.test_book" name="c" time="2"/>
<testcase classname="tests.unit.test_gone" name="d" time="9"/>
</testsuite></testsuites>"""


def test_the_record_has_files_of_tests_alone() -> None:
    for file, seconds in durations.read().items():
        assert (CHECKOUT / file).is_file(), f"{file} is gone: python -m tests.durations REPORT"
        assert seconds >= 0


def test_the_record_is_written_from_a_report_and_keeps_what_that_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durations, "RECORD", tmp_path / "durations.json")
    durations.RECORD.write_text('{"tests/unit/test_doors.py": 7, "tests/unit/test_book.py": 99}')
    (tmp_path / "junit.xml").write_text(REPORT)
    durations.main(str(tmp_path / "junit.xml"))
    assert list(durations.read().items()) == [
        ("tests/e2e/test_run.py", 60),
        ("tests/unit/test_book.py", 3.2),
        ("tests/unit/test_doors.py", 7),
    ]


def test_sums_are_longest_first() -> None:
    of_tests = [("a.py::x", 1.0), ("b.py::y[::]", 5.0), ("a.py::z", 2.0)]
    assert durations.sums(of_tests) == [("b.py", 5.0), ("a.py", 3.0)]


def test_files_that_are_not_recorded_start_first_then_the_longest() -> None:
    order = ["a.py::x", "new.py::y", "b.py::z", "a.py::v", "other.py::w"]
    items = [cast(pytest.Item, SimpleNamespace(nodeid=nodeid)) for nodeid in order]
    durations.sort_longest_first(items, {"a.py": 1, "b.py": 60})
    assert [item.nodeid for item in items] == ["new.py::y", "other.py::w", "b.py::z", "a.py::x", "a.py::v"]


def test_a_process_that_tests_beside_others_collects_in_that_order() -> None:
    recorded = sorted((file for file in durations.read() if "unit" in file), key=lambda file: durations.read()[file])
    files = [recorded[0], recorded[-1]]
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    env = {**os.environ, "PYTEST_XDIST_WORKER": "gw0"}
    said = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=True).stdout
    collected = [line.partition("::")[0] for line in said.splitlines() if "::" in line]
    assert list(dict.fromkeys(collected)) == files[::-1]
