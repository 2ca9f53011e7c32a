"""The names that the shell completes: of guests, recipes, builds and the book's pages."""

from __future__ import annotations

from invoke.context import Context

from pipelines.cli import lazy
from pipelines.cli.completion import FILES, Names
from pipelines.settings import Settings, from_section

with lazy.imports():
    from pipelines.artifact import naming, store
    from pipelines.book import pages
    from pipelines.builder import inputs
    from pipelines.guest import guest as all_guests
    from pipelines.libvirt import connect


def guests(context: Context) -> list[str]:
    """Name the guests; nothing is started for it, so those of a stopped hypervisor are not seen."""
    hypervisor = connect.find(_settings(context))
    if hypervisor is None:
        return []
    # In the embedded hypervisor every domain is a guest, and asking each for its metadata takes long.
    return [each.name for each in (hypervisor.domains() if hypervisor.embedded else all_guests.every(hypervisor))]


def _recipes(_: Context) -> list[str]:
    return inputs.list_names()


def _built_recipes(context: Context) -> list[str]:
    return store.Store(_settings(context).output_dir).recipes()


def _builds(context: Context) -> list[str]:
    return naming.list_names(_settings(context).output_dir)


def _files(_: Context) -> list[str]:
    return [FILES]


def _settings(context: Context) -> Settings:
    return from_section(context.config.virtroot)


#: Where the values of each option come from.
NAMES: Names = {
    "name": guests,
    "install.name": _recipes,
    "distro": _recipes,
    "artifact": _builds,
    "install.artifact": _files,
    "nightly.recipe": _recipes,
    "demote.recipe": _built_recipes,
    "prune.recipe": _built_recipes,
    "source": _files,
    "destination": _files,
    "before": _builds,
    "after": _builds,
    "topic": lambda _: [each.name for each in pages.list_pages()],
}
