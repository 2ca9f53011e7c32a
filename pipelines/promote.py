"""Promote: which build of a recipe guests are made from, and which are kept."""

from __future__ import annotations

from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.log import say
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


_BUILD = {
    "artifact": "a build: RECIPE/BUILD, RECIPE/latest, latest~3 (the third before it)",
    "recipe": "the recipe that latest is of, by name or file",
}


@task(name="promote", positional=["artifact"], help=_BUILD)
def promote_task(
    c: Context,
    artifact: str,
    recipe: str = "",
) -> None:
    """Let a build that passed in a booted guest be its recipe's golden root.

    ./inv promote debian/latest
    """
    say(f"{promote(artifact, recipe, settings_of(c)).id} is the golden root")


@task(name="demote", help={"recipe": "the recipe's name"})
def demote_task(
    c: Context,
    recipe: str,
) -> None:
    """Take the golden root back: the former one is golden again.

    ./inv demote debian
    """
    back, golden = demote(recipe, settings_of(c))
    say(f"{golden.id} is the golden root again; {back.id} is not promoted by a night any more")


@task(name="pin", positional=["artifact"], help={**_BUILD, "remove": "let it go again"})
def pin_task(
    c: Context,
    artifact: str,
    recipe: str = "",
    remove: bool = False,
) -> None:
    """Keep a build whatever its age.

    ./inv pin debian/golden
    ./inv pin debian/golden --remove
    """
    made = pin(artifact, recipe, settings_of(c), keep=not remove)
    say(f"{made.id} {'may be pruned' if remove else 'is kept whatever its age'}")
