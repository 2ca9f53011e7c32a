"""Making a root: from the last stage that is kept, or from nothing; in one builder, or two."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import IO, cast

from pipelines.artifact import archive
from pipelines.artifact.manifest import StageTime
from pipelines.builder.cache import Keeping, Kept, StageCache
from pipelines.builder.container import Builder, copy_root
from pipelines.builder.inputs import Inputs
from pipelines.builder.stages import StageRunner, StepFailed
from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.recipe.stage import ROOT

#: Starts a builder: with the packages' cache and what the bootstrapper needs, or (``apart``) with neither.
Start = Callable[[bool], AbstractContextManager[Builder]]


class Making:
    """A root under construction, in ``builder``.

    It begins with the last stage that ``cache`` has; what comes before is neither run nor restored. Stages that
    install packages run in a builder that has the packages' cache. From the first stage on that runs what the recipe's
    author wrote, the root is in a builder apart: without that cache, so that nothing can be put there for later builds
    to trust, and without further capabilities. Where no packages are left to install, that one is the only one.

    A root is kept under the id that ``ids`` has for its stage, and only when ``unmoved``, asked after its packages were
    fetched, says that the mirror still offers what it did. Leaving the context removes the builders.
    """

    builder: Builder

    def __init__(
        self, inputs: Inputs, ids: tuple[str, ...], cache: StageCache, runner: StageRunner, start: Start,
        unmoved: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._name, self._stages, self._ids = inputs.name, inputs.plan.stages, ids
        self._cache, self._runner, self._start, self._unmoved = cache, runner, start, unmoved
        foreign = next((index for index, stage in enumerate(self._stages) if stage.foreign), len(self._stages))
        self._kept = [index for index, stage in enumerate(self._stages[:foreign]) if stage.cached and stage.steps]
        self._apart = False
        self._home = ExitStack()
        self._beside = ThreadPoolExecutor(1)
        self._pending: list[Future[object]] = []

    def __enter__(self) -> Making:
        return self

    def __exit__(self, *_: object) -> None:
        self._beside.shutdown()
        self._home.close()
        for error in filter(None, (each.exception() for each in self._pending)):
            warn(f"something beside the build went wrong, and is not needed for it: {error!r}")

    def make(self) -> None:
        """Restore what is kept and carry out the other stages."""
        for index in range(self._begin(), len(self._stages)):
            stage = self._stages[index]
            if not stage.steps:
                continue
            with self._runner.logged(stage.name):
                if stage.foreign and not self._apart:
                    self._move_apart()
                self._runner.run(stage, self.builder)
                if index in self._kept:
                    self._keep(index)

    def _begin(self) -> int:
        """Enter a builder with the root that the first stage to run starts from; return that stage's index."""
        for index in reversed(self._kept):
            if self._cache.has(self._ids[index]) and self._restore(index):
                return index + 1
        self._enter(apart=not self._kept)
        return 0

    def _enter(self, *, apart: bool) -> None:
        self._home = ExitStack()
        self.builder = self._home.enter_context(self._start(apart))
        self._apart = apart

    def _restore(self, index: int) -> bool:
        """Enter a builder with the root after that stage; one that is not what was kept is thrown away."""
        stage = self._stages[index]
        whole = False
        try:
            with self._runner.logged(stage.name, cached=True), self._cache.reading(self._ids[index]) as kept:
                if kept:
                    self._enter(apart=index == self._kept[-1])
                    whole = self._unpack(kept)
                if not whole:
                    raise _Damaged
        except _Damaged:
            warn(f"the root after {stage.name} in the stage cache is not what was kept; it is made anew")
            self._home.close()
            self._cache.forget(self._ids[index])
            return False
        before = [StageTime(name=each.name, seconds=0, cached=True) for each in self._stages[:index] if each.steps]
        self._runner.times[-1:-1] = before
        return True

    def _unpack(self, kept: Kept) -> bool:
        try:
            self._runner.restore(self.builder, cast("IO[bytes]", kept))
        except (StepFailed, VirtrootError):
            # A root that is whole is not what was wrong.
            if kept.is_whole():
                raise
            return False
        return kept.is_whole()

    def _move_apart(self) -> None:
        first, before = self._home, self.builder
        try:
            self._enter(apart=True)
            copy_root(before, self.builder)
        finally:
            # It has a copy of the root in memory.
            self._pending.append(self._beside.submit(first.close))

    def _keep(self, index: int) -> None:
        stage = self._stages[index]
        holding = ExitStack()
        with holding:
            keeping = holding.enter_context(self._cache.keeping(self._ids[index], stage.name, self._name))
            if keeping is None:
                return
            done = self.builder.run(archive.keep_argv(ROOT), stdout=keeping.write, check=False)
            if done.returncode:
                keeping.give_up(done.complaint)
                return
            # The next stage need not wait for the mirror.
            held = holding.pop_all()
            self._pending.append(self._beside.submit(self._settle, keeping, held))

    def _settle(self, keeping: Keeping, held: ExitStack) -> None:
        with held:
            if self._unmoved():
                self._cache.commit(keeping)


class _Damaged(Exception):
    """A kept root is not what was kept."""
