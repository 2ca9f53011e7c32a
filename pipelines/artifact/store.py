"""The output directory: one directory per recipe, one per build in it, and the link ``latest``."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import VirtrootError

_PARTIAL = ".partial-"


class Store:
    """Artifacts below one output directory. Nothing has its final name before it is whole."""

    def __init__(self, output: Path) -> None:
        self._output = output

    @contextmanager
    def lock(self, kind: str, name: str) -> Iterator[None]:
        """Hold the lock of one recipe or guest; raises `VirtrootError` when another task has it.

        The kernel drops the lock with the process, however that ends.
        """
        directory = self._output / ".locks"
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{kind}-{name}").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise VirtrootError(
                    f"another task works on the {kind} {name}", "wait for it, then try again"
                ) from error
            yield

    @contextmanager
    def new_build(self, name: str, build: str) -> Iterator[Path]:
        """Yield a directory for a build's files; publish it and move ``latest`` when the block ends well.

        On failure what was written is kept only where it explains the failure: as ``failed/build.log``.
        """
        home = self._output / name
        self.clear(name)
        partial = home / f"{_PARTIAL}{build}"
        partial.mkdir(parents=True)
        try:
            yield partial
            partial.rename(home / build)
        except BaseException:
            log = partial / "build.log"
            if log.exists():
                (home / "failed").mkdir(exist_ok=True)
                log.replace(home / "failed" / "build.log")
            shutil.rmtree(partial, ignore_errors=True)
            raise
        link = home / f"{_PARTIAL}latest"
        link.symlink_to(build)
        os.replace(link, home / "latest")  # noqa: PTH105 - Path.replace would read as if it moved the target

    def clear(self, name: str) -> None:
        """Remove what killed builds of ``name`` left; the caller holds the recipe's lock."""
        for stale in (self._output / name).glob(f"{_PARTIAL}*"):
            if stale.is_symlink():
                stale.unlink()
            else:
                shutil.rmtree(stale)

    def latest(self, name: str) -> Path:
        """Return the directory of the newest build of ``name``; raises `VirtrootError` when there is none."""
        link = self._output / name / "latest"
        if not link.exists():
            raise VirtrootError(f"{name} has not been built", f"run ./inv build --distro {name} first")
        return link.resolve()

    def find(self, artifact_id: str) -> Path | None:
        """Return the directory of the artifact with that id (``recipe/build``), if it is still there."""
        directory = self._output / artifact_id
        return directory if (directory / "manifest.json").is_file() else None
