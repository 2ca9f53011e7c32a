"""How long the modules of the program and of its tests are, and what is defined once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT

_SOURCES = sorted((CHECKOUT / "pipelines").rglob("*.py"))
_SCRIPTS = sorted((CHECKOUT / "pipelines").rglob("*.sh"))
_TESTS = sorted((CHECKOUT / "tests").rglob("*.py"))

#: A file has at most this many lines, and a package this part of all lines.
_LONGEST, _LARGEST_PART = 350, 0.12

#: Modules of tests that are longer, and why they are not split.
_LONG_TESTS = {
    "tests/e2e/test_arch.py": "a second module would make the repository of Arch packages again",
    "tests/e2e/test_import.py": "a second module would make the system and import it again",
    "tests/integration/test_power_loss.py": "half of it is a machine that loses unflushed writes; all tests use it",
}

#: A script in a string has at most this many lines; a longer one is a file that shellcheck reads.
_LONGEST_SCRIPT = 10


def _count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


@pytest.mark.parametrize("path", [*_SOURCES, *_SCRIPTS], ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_file_is_short(path: Path) -> None:
    assert _count_lines(path) <= _LONGEST


@pytest.mark.parametrize("path", _TESTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_module_of_tests_is_short_or_listed_as_long(path: Path) -> None:
    """A listed module must be longer. Otherwise the list would keep old entries."""
    assert (_count_lines(path) > _LONGEST) == (str(path.relative_to(CHECKOUT)) in _LONG_TESTS)


def test_a_package_is_a_small_part_of_all() -> None:
    lines: dict[str, int] = {}
    for path in [*_SOURCES, *_SCRIPTS]:
        package = path.relative_to(CHECKOUT / "pipelines").parts[0]
        lines[package] = lines.get(package, 0) + _count_lines(path)
    total = sum(lines.values())
    # The programs for libvirt's host cannot import the other packages.
    large = {name: count for name, count in lines.items() if count > total * _LARGEST_PART}
    assert set(large) <= {"target"}


def test_the_list_of_tasks_is_short() -> None:
    assert _count_lines(CHECKOUT / "tasks.py") <= 120


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_long_script_is_a_file(path: Path) -> None:
    """Texts of a command that is run are assigned to constants in capitals, with a line for each command."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = node.value.value
            is_script = re.search(r'"?\$[1@{]|^import |; then$|; do$', text, re.MULTILINE)
            assert not is_script or text.strip("\n").count("\n") < _LONGEST_SCRIPT, f"line {node.lineno}"


#: What is defined once, as it is written.
_ONCE = {
    "bounded read beneath a root": r"^_OPENAT2 = ",
    "walk": r"^def descend\(",
    "reader of mountinfo": r'\.partition\(" - "\)',
    "refusal": r"^class Refused\b",
    "parser of a domain's metadata": r"urn:virtroot:1\"",
}


@pytest.mark.parametrize("what", _ONCE)
def test_some_things_are_defined_once(what: str) -> None:
    found = [
        str(path.relative_to(CHECKOUT))
        for path in _SOURCES
        for _ in re.finditer(_ONCE[what], path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(found) == 1, found
