"""The build of a root, starting from the last cached stage if there is one, in one or two builders."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import IO, cast

from pipelines.artifact import archive
from pipelines.artifact.manifest import StageTime
from pipelines.builder.cache import CachedRoot, NewEntry, StageCache
from pipelines.builder.container import Builder, copy_root
from pipelines.builder.inputs import Inputs
from pipelines.builder.stages import StageRunner, StepFailed
from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.recipe.stage import ROOT

#: Starts a builder; with True (apart) it has neither the volume of downloads nor the bootstrapper's capabilities.
Start = Callable[[bool], AbstractContextManager[Builder]]


class RootBuild:
    """A root that is being built, in ``builder``.

    The build starts with the last stage that ``cache`` has; the stages before it are neither run nor restored. Stages
    that install packages run in a builder with the volume of downloads. From the first foreign stage on the root is in
    a second builder, without that volume and without additional capabilities. So commands of the recipe's author cannot
    put files there that later builds trust. If no packages are left to install, only the second builder is used.

    A root is cached under the id of its stage in ``ids``, if ``is_unchanged`` returns True after its packages were
    downloaded: the mirror still offers the same packages. Leaving the context removes the builders.
    """

    builder: Builder

    def __init__(
        self, inputs: Inputs, ids: tuple[str, ...], cache: StageCache, runner: StageRunner, start: Start,
        is_unchanged: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._name, self._stages, self._ids = inputs.name, inputs.plan.stages, ids
        self._cache, self._runner, self._start, self._is_unchanged = cache, runner, start, is_unchanged
        foreign = next((index for index, stage in enumerate(self._stages) if stage.foreign), len(self._stages))
        self._kept = [index for index, stage in enumerate(self._stages[:foreign]) if stage.cached and stage.steps]
        self._is_apart = False
        self._open = ExitStack()
        self._background = ThreadPoolExecutor(1)
        self._pending: list[Future[object]] = []

    def __enter__(self) -> RootBuild:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.shutdown()
        self._open.close()
        for error in filter(None, (each.exception() for each in self._pending)):
            warn(f"a background task of the build failed; the build does not need it: {error!r}")

    def make(self) -> None:
        """Restore the last cached root and run the remaining stages."""
        for index in range(self._restore_last(), len(self._stages)):
            stage = self._stages[index]
            if not stage.steps:
                continue
            with self._runner.log_stage(stage.name):
                if stage.foreign and not self._is_apart:
                    self._switch_builder()
                self._runner.run(stage, self.builder)
                if index in self._kept:
                    self._cache_root(index)

    def _restore_last(self) -> int:
        """Start a builder, restore the last cached root if there is one, and return the index of the next stage."""
        for index in reversed(self._kept):
            if self._cache.has(self._ids[index]) and self._restore(index):
                return index + 1
        self._start_builder(apart=not self._kept)
        return 0

    def _start_builder(self, *, apart: bool) -> None:
        self._open = ExitStack()
        self.builder = self._open.enter_context(self._start(apart))
        self._is_apart = apart

    def _restore(self, index: int) -> bool:
        """Start a builder and restore the root after stage ``index``. Return False, without a builder, if it fails."""
        stage = self._stages[index]
        whole = False
        try:
            with self._runner.log_stage(stage.name, cached=True), self._cache.open_root(self._ids[index]) as kept:
                if kept:
                    self._start_builder(apart=index == self._kept[-1])
                    whole = self._unpack(kept)
                if not whole:
                    raise _Damaged
        except _Damaged:
            warn(f"stage cache: the root after {stage.name} is damaged; building it again")
            self._open.close()
            self._cache.forget(self._ids[index])
            return False
        before = [StageTime(name=each.name, seconds=0, cached=True) for each in self._stages[:index] if each.steps]
        self._runner.times[-1:-1] = before
        return True

    def _unpack(self, kept: CachedRoot) -> bool:
        try:
            self._runner.restore(self.builder, cast("IO[bytes]", kept))
        except (StepFailed, VirtrootError):
            # If the cached root is intact, the error has another cause.
            if kept.is_whole():
                raise
            return False
        return kept.is_whole()

    def _switch_builder(self) -> None:
        first, before = self._open, self.builder
        try:
            self._start_builder(apart=True)
            copy_root(before, self.builder)
        finally:
            # Remove the first builder in the background; until then its root takes memory.
            self._pending.append(self._background.submit(first.close))

    def _cache_root(self, index: int) -> None:
        stage = self._stages[index]
        holding = ExitStack()
        with holding:
            new_entry = holding.enter_context(self._cache.create_entry(self._ids[index], stage.name, self._name))
            if new_entry is None:
                return
            done = self.builder.run(archive.keep_argv(ROOT), stdout=new_entry.write, check=False)
            if done.returncode:
                new_entry.give_up(done.complaint)
                return
            # Query the mirror in the background, so that the next stage does not wait for it.
            held = holding.pop_all()
            self._pending.append(self._background.submit(self._commit, new_entry, held))

    def _commit(self, new_entry: NewEntry, held: ExitStack) -> None:
        with held:
            if self._is_unchanged():
                self._cache.commit(new_entry)


class _Damaged(Exception):
    """A cached root is damaged."""
