"""Coverage: what `./inv test --coverage` measures and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

import tasks
from pipelines import test as checks
from pipelines.checks import branch_coverage
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.settings import Settings


def file_of(percent: float, statements: int) -> dict[str, Any]:
    return {"summary": {"percent_covered": percent, "num_statements": statements}}


REPORT = {
    "totals": {
        "percent_covered": 71.26,
        "covered_lines": 80,
        "num_statements": 100,
        "covered_branches": 9,
        "num_branches": 40,
    },
    "files": {
        "pipelines/small.py": file_of(0, 20),
        "pipelines/none.py": file_of(0, 21),
        "pipelines/half.py": file_of(50, 200),
        "pipelines/most.py": file_of(99.9, 30),
        "pipelines/a.py": file_of(10, 30),
        "pipelines/b.py": file_of(20, 30),
        "pipelines/c.py": file_of(30, 30),
    },
}


def test_the_total_and_the_five_least_covered_modules_are_named() -> None:
    assert branch_coverage.describe(REPORT).splitlines() == [
        "coverage: 71.3 %, 80 of 100 statements and 9 of 40 branches; least covered:",
        "   0.0 %  pipelines/none.py (21 statements)",
        "  10.0 %  pipelines/a.py (30 statements)",
        "  20.0 %  pipelines/b.py (30 statements)",
        "  30.0 %  pipelines/c.py (30 statements)",
        "  50.0 %  pipelines/half.py (200 statements)",
    ]


def test_branches_are_measured_in_the_processes_that_test(tmp_path: Path) -> None:
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").write_text("def choose(x):\n    if x:\n        x += 1\n    return x\n")
    test = "from pipelines import choose\n\ndef test_one():\n    assert choose(1) == 2\n"
    (tmp_path / "test_it.py").write_text(test)
    report = tmp_path / "report.json"
    argv = [sys.executable, "-m", "pytest", *branch_coverage.list_options(report), "--numprocesses=1", "test_it.py"]
    # These tests may be measured themselves.
    env = {**os.environ, "COVERAGE_FILE": str(tmp_path / "data")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first = branch_coverage.describe(json.loads(report.read_text())).splitlines()[0]
    assert "4 of 4 statements and 1 of 2 branches" in first


@pytest.mark.parametrize("status", [0, 1])
def test_figures_are_printed_where_the_tests_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, status: int
) -> None:
    settings = Settings(output=str(tmp_path))
    report = tmp_path / ".tests" / "coverage.json"
    report.parent.mkdir()
    report.write_text(json.dumps(REPORT))
    attach = create_autospec(process.attach, return_value=status)
    monkeypatch.setattr(process, "attach", attach)
    assert checks.measure_coverage(settings, []) == status
    assert ("coverage: 71.3 %" in capsys.readouterr().out) == (status == 0)
    argv = attach.call_args.args[0]
    assert {"tests/unit", "tests/golden"} <= {*argv}
    assert not [word for word in argv if "e2e" in word]


@pytest.mark.parametrize(
    "options", [["--all"], ["--changed"], ["--only", "lint"], ["--only", "tests/unit,tests/e2e"], ["--base", "HEAD"]]
)
def test_other_tests_are_not_measured(options: list[str]) -> None:
    with pytest.raises(VirtrootError, match="--coverage is about unit and golden tests"):
        tasks.program.run(["inv", "test", "--coverage", *options])
