"""A plan's stages, carried out in a builder and logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from pipelines.artifact import archive
from pipelines.builder.cache import Cache
from pipelines.builder.container import Builder, copy_root
from pipelines.builder.inputs import Inputs
from pipelines.errors import VirtrootError
from pipelines.log import step
from pipelines.recipe.stage import ROOT, Command, Stage, Tree

#: What the log's tail may say, and what to try then.
_HINTS = {
    "No space left on device": "the workspace is full: set virtroot.workspace to a larger tmpfs:SIZE or to disk",
    "required key missing from keyring": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    "unknown trust": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    ".sig'": "the mirror has packages without a signature: use another one, or siglevel: never to trust it blindly",
    "(PGP signature)": "the package was changed after it was signed; use another mirror",
}

#: A log of more bytes would only fill the disk.
_LOG_LIMIT = 256 << 20

#: How much of a log's end is looked at: what wrote it may have written without end.
_TAIL = 64 << 10


class StageRunner:
    """Carries stages out, each command logged.

    It begins in the builder that has the package cache. From the first stage on that runs what the recipe's author
    wrote, the root is in a builder that ``apart`` starts: without that cache, so that nothing can be put there for
    later builds to trust, and without further capabilities. Leaving the context removes that second builder.
    """

    def __init__(
        self, inputs: Inputs, builder: Builder, cache: Cache, log: Path, failed_log: Path,
        apart: Callable[[], AbstractContextManager[Builder]],
    ) -> None:  # fmt: skip
        self.builder = builder
        self._inputs, self._cache, self._apart = inputs, cache, apart
        self._log, self._failed_log = log, failed_log
        self._builders = ExitStack()

    def __enter__(self) -> StageRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._builders.close()

    def run(self, stage: Stage) -> None:
        """Carry out the steps of ``stage``, or take its result from the cache."""
        if not stage.steps:
            return
        cached = self._cache.path(stage)
        if cached and self._cache.holds(self.builder, cached):
            with self.logged(f"{stage.name} (from the cache)"):
                self._command(Command(("tar", "--extract", "--file", cached, "--directory", ROOT, *archive.KEEP)))
            return
        with self.logged(stage.name):
            if stage.foreign and not self._is_apart:
                self._move_apart()
            for item in stage.steps:
                if isinstance(item, Tree):
                    self._copy(item)
                else:
                    self._command(item)
            if cached:
                for command in self._cache.commands_to_keep(cached):
                    self._command(command)
                self._cache.record(self.builder, cached)

    _is_apart = False

    def _move_apart(self) -> None:
        second = self._builders.enter_context(self._apart())
        copy_root(self.builder, second)
        self.builder = Builder(second.container, self.builder.env)
        self._is_apart = True

    def _command(self, command: Command) -> None:
        with self._log.open("ab") as log:
            log.write(f"$ {' '.join(command.full_argv)}\n".encode())

            def keep(chunk: bytes) -> None:
                if log.tell() > _LOG_LIMIT:
                    raise VirtrootError(
                        f"{command.argv[0]} prints without end: {self._log} has {_LOG_LIMIT >> 20} MiB",
                        "let the recipe's commands print less",
                    )
                log.write(chunk)

            done = self.builder.run(command.full_argv, env=dict(command.env), check=False, stdout=keep, stderr=keep)
        if done.returncode:
            raise _StepFailed(command, done.returncode)

    def _copy(self, tree: Tree) -> None:
        # The root's own tar, inside the root: a link like /var/run -> /run then means the root's /run.
        unpack = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink", "--no-same-owner",
                  "--no-overwrite-dir", "--touch")  # fmt: skip
        self.builder.run(("chroot", ROOT, *unpack), stdin=self._inputs.trees[tree])

    @contextmanager
    def logged(self, name: str) -> Iterator[None]:
        """Time a stage; where a step of it fails, say which and show the log's tail."""
        with self._log.open("ab") as line:
            line.write(f"== {name}\n".encode())
        try:
            with step(name):
                yield
        except _StepFailed as failure:
            tail = self._tail()
            found = (better for evidence, better in _HINTS.items() if any(evidence in line for line in tail))
            hint = next(found, f"read {self._failed_log}")
            raise VirtrootError(f"stage {name}: {failure}", hint, "\n".join(tail)) from failure

    def _tail(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL))
            return log.read().decode(errors="replace").splitlines()[-25:]


class _StepFailed(Exception):
    """A command of a stage exited with a status other than 0."""

    def __init__(self, command: Command, status: int) -> None:
        super().__init__(f"{command.argv[0].rpartition('/')[2]} exited with {status}")
