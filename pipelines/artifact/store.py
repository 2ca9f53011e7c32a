"""The output directory: one directory per recipe, one per build in it, and the link ``latest``."""

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

#: Names the recipe file whose builds a directory holds.
_SOURCE = ".recipe"

#: Says that a directory holds what was imported, and what that was.
_ORIGIN = ".import"

_HISTORY = "history.jsonl"

_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][^/\0]*/[A-Za-z0-9][^/\0]*")


class Store:
    """Artifacts below one output directory. Nothing has its final name before it is whole."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def lock(self, name: str, purpose: str = "recipe") -> AbstractContextManager[None]:
        """Hold the lock of the recipe ``name``; raises `VirtrootError` when another task has it."""
        locks = self._output / ".locks"
        # Who could open a lock file could hold the lock, and keep everybody from building.
        with suppress(OSError):
            private.make_directory(locks)
        return lock.hold(locks / f"{purpose}-{name}", f"the {purpose} {name}")

    def claim(self, name: str, source: Path) -> None:
        """Keep the directory of ``name`` for the recipe file ``source``; the caller holds the recipe's lock.

        Raises `VirtrootError` where it belongs to another file that still exists: two recipes of one name would take
        each other's ``latest``.
        """
        self._refuse_other(name, source)
        self._mark(name, _SOURCE, source)
        (self._output / name / _ORIGIN).unlink(missing_ok=True)

    def claim_import(self, name: str, source: Path) -> None:
        """Keep the directory of ``name`` for systems that are imported; the caller holds its lock.

        Raises `VirtrootError` where it holds a recipe's builds.
        """
        owner = self.source(name)
        if (self._output / name / _SOURCE).exists():
            raise VirtrootError(
                f"{self._output / name} holds the builds of {owner or 'a recipe'}", "import it under another name"
            )
        self._mark(name, _ORIGIN, source)

    def _mark(self, name: str, mark: str, source: Path) -> None:
        home = self._output / name
        home.mkdir(parents=True, exist_ok=True)
        durable.write(home / mark, os.fsencode(f"{source.resolve()}\n"), partial=home / f"{PARTIAL}{mark}")

    def source(self, name: str) -> Path | None:
        """Return the recipe file that the directory of ``name`` is kept for; None where that is not known."""
        try:
            said = (self._output / name / _SOURCE).read_bytes().decode(errors="surrogateescape").removesuffix("\n")
        except OSError:
            return None
        return Path(said) if said.startswith("/") and "\0" not in said else None

    def _refuse_other(self, name: str, source: Path) -> None:
        # The mark of an import that failed keeps nobody's builds.
        if (self._output / name / _ORIGIN).exists() and self.builds(name):
            raise VirtrootError(
                f"{self._output / name} holds a system that was imported",
                f"rename the recipe {source}, or that directory",
            )
        owner = self.source(name)
        if owner is None:
            return
        if owner.exists() and not (source.exists() and owner.samefile(source)):
            raise VirtrootError(
                f"{self._output / name} holds the builds of {owner}, and this is {source}",
                "rename one of the two recipes: builds are kept under a recipe's name",
            )

    @contextmanager
    def new_build(self, name: str, build: str, *, latest: bool = True) -> Iterator[Artifact]:
        """Yield the artifact to be filled; publish it when the block ends well, and let ``latest`` name it.

        On failure what was written is kept only where it explains the failure: as ``failed/build.log``.
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
        """Close the builds that an earlier version left open to all: what is in a tarball is a root's, secrets too."""
        opened = 0
        for artifact in self.builds(name):
            with suppress(OSError):
                opened += private.tighten(artifact.directory)
        if opened:
            say(f"{opened} builds of {name} were open to other users: only their owner can read them now")

    def name_latest(self, name: str, build: str) -> None:
        """Let ``latest`` of ``name`` name ``build``; the caller holds the recipe's lock."""
        name_build(self._output / name / "latest", build)

    def failed_log(self, name: str) -> Path:
        """Return where the log of the last failed build of ``name`` is kept."""
        return self._output / name / "failed" / "build.log"

    def clear(self, name: str) -> None:
        """Remove what killed builds of ``name`` left; the caller holds the recipe's lock."""
        for stale in (self._output / name).glob(f"{PARTIAL}*"):
            if stale.is_symlink() or stale.is_file():
                stale.unlink()
            else:
                shutil.rmtree(stale)

    def latest(self, name: str, source: Path) -> Artifact:
        """Return the newest build of ``name``, the recipe in the file ``source``; raises `VirtrootError` without."""
        self._refuse_other(name, source)
        link = self._output / name / "latest"
        if not link.exists():
            raise VirtrootError(f"{name} has not been built", f"build it first: ./inv build --recipe {source}")
        return Artifact(link.resolve())

    def newest(self, name: str) -> Artifact | None:
        """Return what ``latest`` names, if anything."""
        link = self._output / name / "latest"
        return Artifact(link.resolve()) if link.exists() else None

    def find(self, artifact_id: str) -> Artifact | None:
        """Return the artifact with that id (``recipe/build``), if it is still there."""
        if not _ID.fullmatch(artifact_id):
            return None
        artifact = Artifact(self._output / artifact_id)
        return artifact if artifact.exists else None

    def recipes(self) -> list[str]:
        """Return the names of the recipes that something is kept of."""
        return sorted(path.name for path in self._output.glob("[!.]*") if (path / _SOURCE).is_file())

    def kept(self) -> list[str]:
        """Return the names that builds are kept under: recipes', and those of imported systems."""
        imported = {path.name for path in self._output.glob("[!.]*") if (path / _ORIGIN).is_file()}
        return sorted({*self.recipes(), *imported})

    def imported(self, name: str) -> Artifact | None:
        """Return the system that was imported as ``name``: the golden one, else the newest; None where none was."""
        if "/" in name or not (self._output / name / _ORIGIN).is_file():
            return None
        return self.golden(name).artifact or self.newest(name)

    def recorded(self) -> list[str]:
        """Return the names of the recipes that have a history: of one that cannot be read, there is no more."""
        return sorted(path.parent.name for path in self._output.glob(f"[!.]*/{_HISTORY}"))

    def home(self, name: str) -> Path:
        """Return the directory of all that is kept of ``name``."""
        return self._output / name

    def builds(self, name: str) -> list[Artifact]:
        """Return the builds of ``name``, oldest first."""
        paths = (self._output / name).glob("[!.]*")
        # Where a copy has followed the links, each is one more directory.
        named = (path for path in sorted(paths) if not path.is_symlink() and path.name not in {"golden", "latest"})
        artifacts = map(Artifact, named)
        return [artifact for artifact in artifacts if artifact.exists]

    def golden(self, name: str) -> Golden:
        """Return the golden root of ``name``, which need not be there yet."""
        return Golden(self._output / name)

    def history(self, name: str) -> History:
        """Return the history of ``name``, which need not have begun yet."""
        return History(self._output / name / _HISTORY)

    def best(self, name: str, source: Path) -> tuple[Artifact, str]:
        """Return what guests are made from: the golden root, else the newest build; and which of the two it is."""
        self._refuse_other(name, source)
        golden = self.golden(name).artifact
        return (golden, "golden root") if golden else (self.latest(name, source), "latest build")

    def delete(self, artifact: Artifact) -> None:
        """Delete a build, which loses its name first; the caller holds the recipe's lock."""
        gone = artifact.directory.with_name(f"{PARTIAL}{artifact.directory.name}")
        artifact.directory.rename(gone)
        shutil.rmtree(gone)

    def guest(self, name: str) -> Artifact:
        """Return where verdicts of the guest ``name`` go whose artifact is not in this store."""
        return Artifact(self._output / ".guests" / name)
