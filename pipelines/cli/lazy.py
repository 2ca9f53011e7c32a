"""Delays the import of modules until they are first used, so that a task imports only what it needs."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]


class Delayed(ModuleType):
    """Stands for a module in the code that named it in a block of `imports`; an attribute's first use imports it.

    It is never in `sys.modules`, unlike what `importlib.util.LazyLoader` makes: an import elsewhere that fails, is
    interrupted or runs in two threads does what Python has it do.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, which is imported if need be."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_import(self.__name__), name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the module; what the import system sets stays here."""
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(_import(self.__name__), name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute of the module."""
        delattr(_import(self.__name__), name)


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Delayed(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder:
    """Finds virtroot's modules as Python does and delays them; packages are imported at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_PACKAGE}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is None:
            self.found.append(name)
            spec.loader = _Loader()
        return spec


@contextmanager
def imports() -> Iterator[None]:
    """Delay the modules that the block imports for the first time, with ``import`` or ``from PACKAGE import MODULE``.

    The block must not use them yet: ``from MODULE import NAME`` raises ImportError.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.found:
            module = sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if vars(sys.modules[package]).get(last) is module:
                delattr(sys.modules[package], last)


def _import(name: str) -> ModuleType:
    """Import a module with SIGINT held back: libraries turn one that arrives meanwhile into errors of their own."""
    if name in sys.modules:
        module = sys.modules[name]
        if isinstance(module, Delayed):
            raise ImportError(f"{name} is used in the block that delays it")
        return importlib.import_module(name)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return importlib.import_module(name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
