"""Delayed imports: a module is imported when it is first used, so that a task imports only what it needs."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]


class Delayed(ModuleType):
    """A placeholder for a module that a block of `imports` named; the first use of an attribute imports the module.

    Unlike the module of `importlib.util.LazyLoader` it is never in `sys.modules`. So an import elsewhere that fails, is
    interrupted or runs in two threads behaves as without it.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module; import the module if necessary."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_import(self.__name__), name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the module. The import system's own attributes are set on the placeholder."""
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
    """A finder that delays virtroot's modules; packages are imported at once."""

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
    if isinstance(sys.modules.get(name), Delayed):
        raise ImportError(f"{name} is used in the block that delays its import")
    if name in sys.modules:
        return importlib.import_module(name)
    with _defer_sigint():
        return importlib.import_module(name)


@contextmanager
def _defer_sigint() -> Iterator[None]:
    """Defer SIGINT until the end of the block. Some libraries turn one during their import into another error."""
    handler = signal.getsignal(signal.SIGINT)
    # Python runs signal handlers in the main thread only.
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[-1])
