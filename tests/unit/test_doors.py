"""The design's rules about who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pipelines.checks import import_graph
from pipelines.settings import CHECKOUT

#: For each package, what it may import of the others; a verb's module may import any of them.
MAY_IMPORT = {
    "recipe": {"recipe"},
    "host": {"host"},
    "engine": {"engine", "host"},
    "target": {"target", "engine", "host"},
    "artifact": {"artifact", "recipe", "target", "host"},
    "libvirt": {"libvirt", "target", "engine", "host"},
    "builder": {"builder", "artifact", "engine", "recipe", "target", "host"},
    "origin": {"origin", "builder", "artifact", "engine", "recipe", "target", "host"},
    "pool": {"pool", "artifact", "libvirt", "recipe", "target", "host"},
    "guest": {"guest", "pool", "artifact", "libvirt", "recipe", "symptom", "target", "host"},
    "merge": {"merge", "guest", "pool", "artifact", "libvirt", "recipe", "target", "host"},
    "health": {"health", "guest", "pool", "origin", "libvirt", "engine", "recipe", "target", "host"},
    "night": {"night", "artifact", "target", "host"},
    "checks": {"checks", "host"},
    "cli": {"cli"},
    "book": {"book", "artifact", "recipe", "target", "host"},
    "symptom": {"symptom"},
}
#: What every package may use, but for those that may use less.
SHARED = {"context", "errors", "invocation", "lazy", "log", "metrics", "project", "settings", "text"}
LESS = {"recipe": {"errors"}, "symptom": {"errors", "text"}}
#: Verbs that are made of verbs.
OF_VERBS = {"candidate", "demo", "list", "nightly", "run", "test", "upgrade"}
#: Directories of tests that have nothing of each other.
SEPARATE = ("tests.unit.", "tests.integration.", "tests.e2e.")


def imports(path: Path) -> set[str]:
    """Return the packages and modules of pipelines/ that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipelines"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names if alias.name[0] != "_"}
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package: str) -> None:
    files = list((CHECKOUT / "pipelines" / package).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[package] | LESS.get(package, SHARED)
    for file in files:
        assert imports(file) <= allowed, file


def verbs() -> set[str]:
    return {path.stem for path in (CHECKOUT / "pipelines").glob("*.py")} - SHARED - {"__init__"}


def test_every_package_has_its_rules() -> None:
    packages = {path.name for path in (CHECKOUT / "pipelines").iterdir() if (path / "__init__.py").exists()}
    assert packages == set(MAY_IMPORT)


def test_verbs_do_not_import_verbs() -> None:
    assert {"build", "install", "verify", "start"} <= verbs()
    for verb in verbs() - OF_VERBS:
        assert not imports(CHECKOUT / "pipelines" / f"{verb}.py") & verbs(), verb


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checkers count: a circle of types is one, too."""
    graph = import_graph.build_graph("pipelines")
    assert graph["pipelines.install"] >= {"pipelines.guest.publication", "pipelines.pool.pool"}
    TopologicalSorter(graph).prepare()


def test_tests_share_by_way_of_support_alone() -> None:
    """A module of tests is imported by none, nor is anything below a directory of them from outside it."""
    graph = import_graph.build_graph("tests")
    assert "tests.support.nights" in graph["tests.unit.test_nightly"]
    for module, imported in graph.items():
        assert not [each for each in imported if each.rpartition(".")[2].startswith("test_")], module
        others = tuple(each for each in SEPARATE if not module.startswith(each))
        assert not [each for each in imported if each.startswith(others)], module


@pytest.mark.parametrize("word", ['"manifest.json"', '".partial-', "rootfs.tar.zst", '"build.log"'])
def test_an_artifacts_file_names_stand_in_its_package(word: str) -> None:
    for path in (CHECKOUT / "pipelines").rglob("*.py"):
        if path.parent.name != "artifact":
            assert word not in path.read_text(), path


@pytest.mark.parametrize(
    "word", ["/var/lib/libvirt/boot", "/var/log/libvirt", '"root.', "/root.{", '-console.log"', '@console.log"']
)
def test_paths_that_a_guests_name_decides_stand_in_one_place(word: str) -> None:
    for path in (CHECKOUT / "pipelines").rglob("*.py"):
        if path.name != "place.py":
            assert word not in path.read_text(), path


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
