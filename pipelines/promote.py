"""Promote: which build of a recipe guests are made from, and which are kept."""

from __future__ import annotations

from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.settings import Settings


def promote(name: str, recipe: str, settings: Settings) -> Artifact:
    """Let a build be its recipe's golden root; `naming.resolve` says how it is named.

    Raises `VirtrootError` for one that is older, or not found good.
    """
    store = Store(settings.output_dir)
    artifact = naming.resolve(settings.output_dir, name, recipe)
    home = artifact.directory.parent.name
    with store.lock(home):
        artifact.refuse_damaged()
        store.golden(home).promote(artifact)
    return artifact


def demote(recipe: str, settings: Settings) -> tuple[Artifact, Artifact]:
    """Go back to the former golden root; return the one that was taken back, and the one that is golden now."""
    store = Store(settings.output_dir)
    if recipe not in store.kept():
        raise VirtrootError(f"nothing is kept of {recipe}", f"recipes with builds: {', '.join(store.kept()) or '-'}")
    with store.lock(recipe):
        return store.golden(recipe).demote()


def pin(name: str, recipe: str, settings: Settings, *, keep: bool) -> Artifact:
    """Have a build kept whatever its age, or with ``keep`` off no more so; `naming.resolve` says how it is named."""
    artifact = naming.resolve(settings.output_dir, name, recipe)
    artifact.pin(keep=keep)
    return artifact
