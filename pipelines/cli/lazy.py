"""Delays the import of modules until they are first used, so that a task imports only what it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


class _Finder:
    """Finds virtroot's modules as Python does and delays them; packages are imported at once."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_PACKAGE}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is None:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def imports() -> Iterator[None]:
    """Delay the modules that the block imports for the first time; ``from MODULE import NAME`` uses MODULE at once.

    See `importlib.util.LazyLoader`.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
