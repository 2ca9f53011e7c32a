"""The golden root of a recipe: the link ``golden``, and which roots it named before."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.artifact import pruning
from pipelines.artifact.artifact import PARTIAL, Artifact, name_build
from pipelines.errors import VirtrootError
from pipelines.target import durable

_LINK = "golden"

#: Where the link was, beside it.
_RECORD = ".promotions.json"


class _Promotions(BaseModel):
    """Builds that were promoted, the newest last, and those that somebody took back."""

    model_config = ConfigDict(frozen=True)

    promoted: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()


class Golden:
    """The golden root of the recipe whose builds are in ``home``. The caller of what changes it holds its lock."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @property
    def artifact(self) -> Artifact | None:
        """The golden root; None where nothing was promoted yet."""
        return self._named(_LINK)

    @property
    def former(self) -> Artifact | None:
        """What was golden before the golden root, was not taken back, and still is there."""
        current = self.artifact
        build = current.directory.name if current else ""
        record = self._read()
        names = record.promoted
        before = names[: names.index(build)] if build in names else names
        known = (self._named(name) for name in reversed(before) if name != build and name not in record.demoted)
        return next((artifact for artifact in known if artifact is not None), None)

    def was_demoted(self, artifact: Artifact) -> bool:
        """Say whether somebody took that build back."""
        return artifact.directory.name in self._read().demoted

    def older(self, artifact: Artifact) -> bool:
        """Say whether ``artifact`` is older than the golden root.

        A golden root of the future, which a clock gone wrong has made, is older than what is made now.
        """
        current = self.artifact
        if current is None or pruning.made(current) > datetime.now(UTC):
            return False
        return artifact.directory.name < current.directory.name

    def promote(self, artifact: Artifact) -> None:
        """Let ``artifact`` be the golden root; raises `VirtrootError` for one that is older, or was not found good."""
        current, build = self.artifact, artifact.directory.name
        if not artifact.good:
            checked = "guest" in artifact.manifest.verdicts
            raise VirtrootError(
                f"{artifact.id} {'failed' if checked else 'was not checked'} in a booted guest",
                "install it, then ./inv verify --boot the guest; what passes can be promoted",
            )
        if current and self.older(artifact):
            raise VirtrootError(
                f"{artifact.id} is older than the golden root {current.stored_id}",
                "a golden root never goes back in time by itself: ./inv demote takes the newer one back",
            )
        before = self._read()
        kept = tuple(name for name in before.promoted if name != build and self._named(name))
        self._write(
            _Promotions(
                promoted=(*kept, build),
                demoted=tuple(name for name in before.demoted if name != build and self._named(name)),
            )
        )
        self._point_to(build)

    def demote(self) -> tuple[Artifact, Artifact]:
        """Let the former golden root be golden again; return the one that was taken back, and the one that is now."""
        current, former = self.artifact, self.former
        if current is None or former is None:
            raise VirtrootError(
                f"{self._home.name} has no {'former ' if current else ''}golden root", "see them all: ./inv status"
            )
        before = self._read()
        # First the note: a nightly run between the two must not promote the same build again.
        self._write(before.model_copy(update={"demoted": (*before.demoted, current.directory.name)}))
        self._point_to(former.directory.name)
        return current, former

    def _named(self, name: str) -> Artifact | None:
        path = self._home / name
        if name == _LINK and path.is_symlink():
            path = self._home / path.readlink().name
        artifact = Artifact(path)
        return artifact if path.name != _LINK and artifact.exists else None

    def _point_to(self, build: str) -> None:
        name_build(self._home / _LINK, build)

    def _read(self) -> _Promotions:
        try:
            return _Promotions.model_validate_json((self._home / _RECORD).read_bytes())
        except FileNotFoundError:
            return _Promotions()
        except (OSError, ValidationError) as error:
            raise VirtrootError(f"{self._home / _RECORD} cannot be read", "delete it; golden stays as it is") from error

    def _write(self, promotions: _Promotions) -> None:
        content = f"{promotions.model_dump_json(indent=2)}\n".encode()
        durable.write(self._home / _RECORD, content, partial=self._home / f"{PARTIAL}{_RECORD}")
