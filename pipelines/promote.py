"""Promote: which build of a recipe guests are made from, and which are kept."""

from __future__ import annotations

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.settings import Settings


def promote(artifact_id: str, settings: Settings) -> Artifact:
    """Let a build be its recipe's golden root; raises `VirtrootError` for one that is older, or not found good."""
    store = Store(settings.output_dir)
    artifact = _found(store, artifact_id)
    recipe = _recipe(artifact)
    with store.lock(recipe):
        artifact.refuse_damaged()
        store.golden(recipe).promote(artifact)
    return artifact


def demote(recipe: str, settings: Settings) -> tuple[Artifact, Artifact]:
    """Go back to the former golden root; return the one that was taken back, and the one that is golden now."""
    store = Store(settings.output_dir)
    if recipe not in store.recipes():
        raise VirtrootError(f"nothing is kept of {recipe}", f"recipes with builds: {', '.join(store.recipes()) or '-'}")
    with store.lock(recipe):
        return store.golden(recipe).demote()


def pin(artifact_id: str, settings: Settings, *, keep: bool) -> Artifact:
    """Have a build kept whatever its age, or with ``keep`` off no more so."""
    artifact = _found(Store(settings.output_dir), artifact_id)
    artifact.pin(keep=keep)
    return artifact


def _found(store: Store, artifact_id: str) -> Artifact:
    artifact = store.find(artifact_id)
    if artifact is None:
        raise VirtrootError(f"no artifact {artifact_id}", "ids are written RECIPE/BUILD, as in the output directory")
    # Through a link like latest, it is the build itself that counts.
    return Artifact(artifact.directory.resolve())


def _recipe(artifact: Artifact) -> str:
    return artifact.directory.parent.name
