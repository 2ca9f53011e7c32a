"""The table of all known mistakes in docs/gotchas.md names tests that exist."""

from __future__ import annotations

import ast
import re

import pytest

from pipelines.settings import CHECKOUT

HEADING = "## All known mistakes { #all-known-mistakes }"
PAGE = (CHECKOUT / "docs" / "gotchas.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.partition(HEADING)[2].partition("\n## ")[0].splitlines()
    if line.startswith("|")
][2:]


def test_the_table_is_found() -> None:
    assert PAGE.count(HEADING) == 1
    assert len(ROWS) > 15


@pytest.mark.parametrize(("mistake", "tests"), ROWS)
def test_a_row_names_tests_that_are_there(mistake: str, tests: str) -> None:
    named = re.findall(r"`(tests/[^`]+)`", tests)
    assert named, mistake
    # Nothing but names of tests, so that no row passes for want of a backtick.
    assert re.sub(r"`tests/[\w/.]+::test_\w+`", "", tests).strip(" ,") == ""
    for name in named:
        file, _, test = name.partition("::")
        body = ast.parse((CHECKOUT / file).read_text()).body
        functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        assert test in functions, name
