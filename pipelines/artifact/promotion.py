"""The golden root of a recipe: the link ``golden``, and the record of earlier golden roots."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.artifact import pruning
from pipelines.artifact.artifact import PARTIAL, Artifact, name_build
from pipelines.errors import VirtrootError
from pipelines.target import durable

_LINK = "golden"

#: The record of promotions, next to the link.
_RECORD = ".promotions.json"


class _Promotions(BaseModel):
    """The names of promoted builds, the newest last, and of demoted builds."""

    model_config = ConfigDict(frozen=True)

    promoted: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()


class Golden:
    """The golden root of the recipe whose builds are in ``home``. Callers of methods that change it hold its lock."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @property
    def artifact(self) -> Artifact | None:
        """The golden root; None if no build was promoted yet."""
        return self._find_build(_LINK)

    @property
    def previous(self) -> Artifact | None:
        """The newest earlier golden root that was not demoted and still exists; None if there is none."""
        current = self.artifact
        build = current.directory.name if current else ""
        record = self._read()
        names = record.promoted
        before = names[: names.index(build)] if build in names else names
        known = (self._find_build(name) for name in reversed(before) if name != build and name not in record.demoted)
        return next((artifact for artifact in known if artifact is not None), None)

    def is_demoted(self, artifact: Artifact) -> bool:
        """Return whether the user demoted ``artifact``."""
        return artifact.directory.name in self._read().demoted

    def is_older(self, artifact: Artifact) -> bool:
        """Return whether ``artifact`` is older than the golden root.

        If the golden root's time is in the future, because a clock was wrong, no artifact is older.
        """
        current = self.artifact
        if current is None or pruning.get_build_time(current) > datetime.now(UTC):
            return False
        return artifact.directory.name < current.directory.name

    def promote(self, artifact: Artifact) -> None:
        """Make ``artifact`` the golden root. Raises VirtrootError if it is older, or did not pass in a booted guest."""
        current, build = self.artifact, artifact.directory.name
        if not artifact.good:
            checked = "guest" in artifact.manifest.verdicts
            raise VirtrootError(
                f"{artifact.id} {'failed' if checked else 'was not checked'} in a booted guest",
                "install it, run ./inv verify --boot for the guest, and promote the artifact after it passed",
            )
        if current and self.is_older(artifact):
            raise VirtrootError(
                f"{artifact.id} is older than the golden root {current.stored_id}",
                "run ./inv demote to return to an older golden root",
            )
        before = self._read()
        kept = tuple(name for name in before.promoted if name != build and self._find_build(name))
        self._write(
            _Promotions(
                promoted=(*kept, build),
                demoted=tuple(name for name in before.demoted if name != build and self._find_build(name)),
            )
        )
        self._set_link(build)

    def demote(self) -> tuple[Artifact, Artifact]:
        """Make the previous golden root golden again; return the demoted one, and the one that is golden now."""
        current, previous = self.artifact, self.previous
        if current is None or previous is None:
            raise VirtrootError(
                f"{self._home.name} has no {'previous ' if current else ''}golden root",
                "run ./inv status for all golden roots",
            )
        before = self._read()
        # Write the record first: a nightly run in between must not promote the same build again.
        self._write(before.model_copy(update={"demoted": (*before.demoted, current.directory.name)}))
        self._set_link(previous.directory.name)
        return current, previous

    def _find_build(self, name: str) -> Artifact | None:
        path = self._home / name
        if name == _LINK and path.is_symlink():
            path = self._home / path.readlink().name
        artifact = Artifact(path)
        return artifact if path.name != _LINK and artifact.exists else None

    def _set_link(self, build: str) -> None:
        name_build(self._home / _LINK, build)

    def _read(self) -> _Promotions:
        try:
            return _Promotions.model_validate_json((self._home / _RECORD).read_bytes())
        except FileNotFoundError:
            return _Promotions()
        except (OSError, ValidationError) as error:
            raise VirtrootError(f"cannot read {self._home / _RECORD}", "delete it; golden does not change") from error

    def _write(self, promotions: _Promotions) -> None:
        content = f"{promotions.model_dump_json(indent=2)}\n".encode()
        durable.write(self._home / _RECORD, content, partial=self._home / f"{PARTIAL}{_RECORD}")
