"""Which module imports which, as the checkout's files say it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pipelines.settings import CHECKOUT

#: A name without a module of its own: `from pipelines import build` imports the module `pipelines.build`.
_PACKAGES = {"pipelines", "tests"}

#: Modules that send the modules of a package to another machine, and so depend on them without an import.
_SENDERS = {"pipelines.target.payload_call": "pipelines.target.payload."}


def name(path: Path) -> str:
    """Return the name of the module that ``path`` is."""
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def modules(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it, and the names that it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = name(path).split(".")[: -node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
            if node.module:
                found |= {module} - _PACKAGES
    return found


@cache
def graph(*directories: str) -> dict[str, set[str]]:
    """Return for each module below ``directories`` of the checkout those of them that it imports; read once."""
    files = {name(path): modules(path) for each in directories for path in (CHECKOUT / each).rglob("*.py")}
    for sender, package in _SENDERS.items():
        if sender in files:
            files[sender] |= {module for module in files if module.startswith(package)}
    return {module: {each for each in found if each in files} for module, found in files.items()}


def closure(graph: Mapping[str, Iterable[str]], start: Iterable[str]) -> set[str]:
    """Return what can be reached from ``start``, itself included."""
    reached: set[str] = set()
    left = list(start)
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left += graph.get(module, ())
    return reached
