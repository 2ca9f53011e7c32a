"""The import graph of the checkout's modules, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pipelines.settings import CHECKOUT

#: Packages without code: `from pipelines import build` imports the module `pipelines.build`.
_PACKAGES = {"pipelines", "tests"}

#: Modules that send the modules of a package to another machine, and so depend on them without an import.
_SENDERS = {"pipelines.target.payload_call": "pipelines.target.payload."}


def get_module_name(path: Path) -> str:
    """Return the name of the module in the file ``path``."""
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def find_imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it, and the names that it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = get_module_name(path).split(".")[: -node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
            if node.module:
                found |= {module} - _PACKAGES
    return found


@cache
def build_graph(*directories: str) -> dict[str, set[str]]:
    """Return, for each module below ``directories`` of the checkout, those of these modules that it imports."""
    files = {
        get_module_name(path): find_imports(path) for each in directories for path in (CHECKOUT / each).rglob("*.py")
    }
    for sender, package in _SENDERS.items():
        if sender in files:
            files[sender] |= {module for module in files if module.startswith(package)}
    return {module: {each for each in found if each in files} for module, found in files.items()}


def compute_closure(graph: Mapping[str, Iterable[str]], start: Iterable[str]) -> set[str]:
    """Return everything that can be reached from ``start``, including ``start``."""
    reached: set[str] = set()
    left = list(start)
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left += graph.get(module, ())
    return reached
