"""Promote a build to the golden root, demote the golden root, and pin builds."""

from __future__ import annotations

from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.cli.task import Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.log import say


def promote(name: str, recipe: str, ctx: CommandContext) -> Artifact:
    """Make the build ``name`` its recipe's golden root; see `naming.resolve` for names.

    Raises VirtrootError if it is older than the golden root, or did not pass in a booted guest.
    """
    store = ctx.store
    artifact = naming.resolve(ctx.settings.output_dir, name, recipe)
    home = artifact.directory.parent.name
    with store.lock(home):
        artifact.refuse_damaged()
        store.golden(home).promote(artifact)
    return artifact


def demote(recipe: str, ctx: CommandContext) -> tuple[Artifact, Artifact]:
    """Return to the previous golden root; return the demoted one, and the one that is golden now."""
    store = ctx.store
    if recipe not in store.kept():
        raise VirtrootError(
            f"no builds of {recipe}", f"use one of the recipes with builds: {', '.join(store.kept()) or '-'}"
        )
    with store.lock(recipe):
        return store.golden(recipe).demote()


def pin(name: str, recipe: str, ctx: CommandContext, *, keep: bool) -> Artifact:
    """Pin the build ``name``, or unpin it if ``keep`` is False; see `naming.resolve` for names."""
    artifact = naming.resolve(ctx.settings.output_dir, name, recipe)
    artifact.pin(keep=keep)
    return artifact


_BUILD = {
    "artifact": "a build: RECIPE/BUILD, RECIPE/latest, latest~3 (the third before it)",
    "recipe": "the recipe of latest, by name or file",
}


@task(name="promote", positional=["artifact"], help=_BUILD)
def promote_task(
    c: Context,
    artifact: str,
    recipe: str = "",
) -> None:
    """Make a build that passed in a booted guest its recipe's golden root.

    ./inv promote debian/latest
    """
    say(f"{promote(artifact, recipe, context_of(c)).id} is the golden root")


@task(name="demote", help={"recipe": "the recipe's name"})
def demote_task(
    c: Context,
    recipe: str,
) -> None:
    """Return to the previous golden root.

    ./inv demote debian
    """
    back, golden = demote(recipe, context_of(c))
    say(f"{golden.id} is the golden root again; nightly runs will not promote {back.id}")


@task(name="pin", positional=["artifact"], help={**_BUILD, "remove": "unpin it"})
def pin_task(
    c: Context,
    artifact: str,
    recipe: str = "",
    remove: bool = False,
) -> None:
    """Pin a build, so that it is kept at any age.

    ./inv pin debian/golden
    ./inv pin debian/golden --remove
    """
    made = pin(artifact, recipe, context_of(c), keep=not remove)
    say(f"{made.id} {'may be pruned' if remove else 'is pinned'}")
