"""The design's rules about who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT

#: For each room, what it may import of the others; a module beside the rooms may import any of them.
MAY_IMPORT = {
    "host": {"host"},
    "recipe": {"recipe"},
    "artifact": {"artifact", "recipe", "host"},
    "libvirt": {"libvirt", "host"},
    "builder": {"builder", "artifact", "recipe", "host"},
    "guest": {"guest", "libvirt", "host"},
    "machine": {"machine", "libvirt", "host", "recipe"},
}
#: What every room may use; `recipe` only the errors.
SHARED = {"errors", "log", "settings", "text"}


def imports(path: Path) -> set[str]:
    """Return the rooms and modules of pipelines/ that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipelines"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names if alias.name[0] != "_"}
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room: str) -> None:
    files = list((CHECKOUT / "pipelines" / room).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[room] | ({"errors"} if room == "recipe" else SHARED)
    for file in files:
        assert imports(file) <= allowed, file


def test_recipe_does_no_io() -> None:
    for file in (CHECKOUT / "pipelines" / "recipe").rglob("*.py"):
        tree = ast.parse(file.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"open", "print", "input"}, file
        assert not modules & {"os", "pathlib", "subprocess", "shutil", "socket", "tempfile"}, file


@pytest.mark.parametrize(("module", "code"), [("subprocess", "TID251"), ("docker", "TID251")])
def test_lint_keeps_the_doors_shut(module: str, code: str) -> None:
    source = f'"""A module."""\n\nimport {module}\n\n__all__ = ["{module}"]\n'
    argv = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format=concise",
        "--stdin-filename",
        "pipelines/guest/new.py",
        "-",
    ]
    done = subprocess.run(argv, input=source, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 1
    assert f"{code} `{module}` is banned" in done.stdout
