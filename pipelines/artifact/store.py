"""The output directory: a directory per recipe with a directory per build, and the links ``latest`` and ``golden``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pipelines.artifact.artifact import PARTIAL, Artifact, name_build
from pipelines.artifact.history import History
from pipelines.artifact.promotion import Golden
from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.log import say
from pipelines.target import durable, lock

#: A file with the path of the recipe whose builds are in the directory.
_SOURCE = ".recipe"

#: A file with the path of the imported system that is in the directory.
_ORIGIN = ".import"

_HISTORY = "history.jsonl"

_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][^/\0]*/[A-Za-z0-9][^/\0]*")


class Store:
    """The artifacts below one output directory. An artifact gets its final name when it is complete."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def lock(self, name: str, purpose: str = "recipe") -> AbstractContextManager[None]:
        """Hold the lock of the recipe ``name``. Raises VirtrootError if another task has it."""
        locks = self._output / ".locks"
        # A user who can open a lock file can hold the lock, and prevent all builds.
        with suppress(OSError):
            private.make_directory(locks)
        return lock.hold(locks / f"{purpose}-{name}", f"the {purpose} {name}")

    def claim(self, name: str, source: Path) -> None:
        """Reserve the directory of ``name`` for the recipe file ``source``; the caller holds the recipe's lock.

        Raises VirtrootError if it belongs to another existing file: two recipes with one name would overwrite each
        other's ``latest``.
        """
        self._refuse_other(name, source)
        self._write_mark(name, _SOURCE, source)
        (self._output / name / _ORIGIN).unlink(missing_ok=True)

    def claim_import(self, name: str, source: Path) -> None:
        """Reserve the directory of ``name`` for imported systems; the caller holds its lock.

        Raises VirtrootError if it holds builds of a recipe.
        """
        owner = self.source(name)
        if (self._output / name / _SOURCE).exists():
            raise VirtrootError(
                f"{self._output / name} contains builds of {owner or 'a recipe'}", "import it under another name"
            )
        self._write_mark(name, _ORIGIN, source)

    def _write_mark(self, name: str, mark: str, source: Path) -> None:
        home = self._output / name
        home.mkdir(parents=True, exist_ok=True)
        durable.write(home / mark, os.fsencode(f"{source.resolve()}\n"), partial=home / f"{PARTIAL}{mark}")

    def source(self, name: str) -> Path | None:
        """Return the recipe file of the builds of ``name``; None if it is unknown."""
        try:
            said = (self._output / name / _SOURCE).read_bytes().decode(errors="surrogateescape").removesuffix("\n")
        except OSError:
            return None
        return Path(said) if said.startswith("/") and "\0" not in said else None

    def _refuse_other(self, name: str, source: Path) -> None:
        # A failed import leaves its mark without builds; ignore it.
        if (self._output / name / _ORIGIN).exists() and self.builds(name):
            raise VirtrootError(
                f"{self._output / name} contains an imported system",
                f"rename the recipe {source}, or that directory",
            )
        owner = self.source(name)
        if owner is None:
            return
        if owner.exists() and not (source.exists() and owner.samefile(source)):
            raise VirtrootError(
                f"{self._output / name} contains builds of {owner}, not of {source}",
                "rename one of the two recipes: each needs its own directory",
            )

    @contextmanager
    def new_build(self, name: str, build: str, *, latest: bool = True) -> Iterator[Artifact]:
        """Yield a new artifact; at the end of the block publish it and set ``latest`` to it.

        If the block raises, the artifact is deleted, except for its log, which becomes ``failed/build.log``.
        """
        home = self._output / name
        self.clear(name)
        artifact = Artifact(home / f"{PARTIAL}{build}")
        self._tighten(name)
        private.make_directory(artifact.directory)
        try:
            yield artifact
            durable.publish(artifact.directory, home / build)
        except BaseException:
            if artifact.log.exists():
                private.make_directory(home / "failed")
                artifact.log.replace(self.failed_log(name))
            shutil.rmtree(artifact.directory, ignore_errors=True)
            raise
        if latest:
            self.name_latest(name, build)

    def _tighten(self, name: str) -> None:
        """Remove other users' access to builds of an earlier version: a tarball contains the secrets of a root."""
        opened = 0
        for artifact in self.builds(name):
            with suppress(OSError):
                opened += private.tighten(artifact.directory)
        if opened:
            say(f"removed other users' access to {opened} builds of {name}")

    def name_latest(self, name: str, build: str) -> None:
        """Set ``latest`` of ``name`` to ``build``; the caller holds the recipe's lock."""
        name_build(self._output / name / "latest", build)

    def failed_log(self, name: str) -> Path:
        """Return the path of the log of the last failed build of ``name``."""
        return self._output / name / "failed" / "build.log"

    def clear(self, name: str) -> None:
        """Remove the leftovers of killed builds of ``name``; the caller holds the recipe's lock."""
        for stale in (self._output / name).glob(f"{PARTIAL}*"):
            if stale.is_symlink() or stale.is_file():
                stale.unlink()
            else:
                shutil.rmtree(stale)

    def latest(self, name: str, source: Path) -> Artifact:
        """Return the newest build of ``name``, the recipe in the file ``source``. Raises VirtrootError without one."""
        self._refuse_other(name, source)
        link = self._output / name / "latest"
        if not link.exists():
            raise VirtrootError(f"no build of {name}", f"run ./inv build --recipe {source} first")
        return Artifact(link.resolve())

    def newest(self, name: str) -> Artifact | None:
        """Return the artifact of the link ``latest``, or None."""
        link = self._output / name / "latest"
        return Artifact(link.resolve()) if link.exists() else None

    def find(self, artifact_id: str) -> Artifact | None:
        """Return the artifact with the id ``artifact_id`` (``recipe/build``), or None."""
        if not _ID.fullmatch(artifact_id):
            return None
        artifact = Artifact(self._output / artifact_id)
        return artifact if artifact.exists else None

    def recipes(self) -> list[str]:
        """Return the names of the recipes that have a directory."""
        return sorted(path.name for path in self._output.glob("[!.]*") if (path / _SOURCE).is_file())

    def kept(self) -> list[str]:
        """Return the names of recipes and imported systems that have a directory."""
        imported = {path.name for path in self._output.glob("[!.]*") if (path / _ORIGIN).is_file()}
        return sorted({*self.recipes(), *imported})

    def imported(self, name: str) -> Artifact | None:
        """Return the system that was imported as ``name``, the golden one or else the newest; None if there is none."""
        if "/" in name or not (self._output / name / _ORIGIN).is_file():
            return None
        return self.golden(name).artifact or self.newest(name)

    def recorded(self) -> list[str]:
        """Return the names of the recipes with a history. A recipe that never could be read has nothing else."""
        return sorted(path.parent.name for path in self._output.glob(f"[!.]*/{_HISTORY}"))

    def home(self, name: str) -> Path:
        """Return the directory of ``name``."""
        return self._output / name

    def builds(self, name: str) -> list[Artifact]:
        """Return the builds of ``name``, oldest first."""
        paths = (self._output / name).glob("[!.]*")
        # In a copy that followed links, "golden" and "latest" are directories.
        named = (path for path in sorted(paths) if not path.is_symlink() and path.name not in {"golden", "latest"})
        artifacts = map(Artifact, named)
        return [artifact for artifact in artifacts if artifact.exists]

    def golden(self, name: str) -> Golden:
        """Return the golden root of ``name``, which may not exist yet."""
        return Golden(self._output / name)

    def history(self, name: str) -> History:
        """Return the history of ``name``, which may not exist yet."""
        return History(self._output / name / _HISTORY)

    def best(self, name: str, source: Path) -> tuple[Artifact, str]:
        """Return the artifact for new guests, the golden root or else the newest build, and its kind in words."""
        self._refuse_other(name, source)
        golden = self.golden(name).artifact
        return (golden, "golden root") if golden else (self.latest(name, source), "latest build")

    def delete(self, artifact: Artifact) -> None:
        """Delete a build; rename it first, so that a killed task leaves no partial build. The caller holds the lock."""
        gone = artifact.directory.with_name(f"{PARTIAL}{artifact.directory.name}")
        artifact.directory.rename(gone)
        shutil.rmtree(gone)

    def guest(self, name: str) -> Artifact:
        """Return the place for verdicts of the guest ``name`` if its artifact is not in this store."""
        return Artifact(self._output / ".guests" / name)
