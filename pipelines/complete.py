"""The names for shell completion: guests, recipes, builds and the book's pages."""

from __future__ import annotations

from invoke.context import Context

from pipelines import lazy
from pipelines.cli.completion import FILES, Names
from pipelines.cli.task import settings_of

with lazy.imports():
    from pipelines.artifact import naming, store
    from pipelines.book import pages
    from pipelines.builder import inputs
    from pipelines.guest import guest as all_guests
    from pipelines.libvirt import connect


def list_guests(context: Context) -> list[str]:
    """Return the names of the guests; nothing is started, so those of a stopped hypervisor are missing."""
    hypervisor = connect.find(settings_of(context))
    if hypervisor is None:
        return []
    # In the embedded hypervisor every domain is a guest, and reading the metadata of each takes long.
    return [each.name for each in (hypervisor.domains() if hypervisor.embedded else all_guests.list_guests(hypervisor))]


def _list_recipes(context: Context) -> list[str]:
    return inputs.list_names(settings_of(context))


def _list_built_recipes(context: Context) -> list[str]:
    return store.Store(settings_of(context).output_dir).recipes()


def _list_builds(context: Context) -> list[str]:
    return naming.list_names(settings_of(context).output_dir)


def _list_files(_: Context) -> list[str]:
    return [FILES]


#: The functions that list the values of each option.
NAMES: Names = {
    "name": list_guests,
    "install.name": _list_recipes,
    "distro": _list_recipes,
    "artifact": _list_builds,
    "install.artifact": _list_files,
    "nightly.recipe": _list_recipes,
    "builds.recipe": _list_built_recipes,
    "demote.recipe": _list_built_recipes,
    "prune.recipe": _list_built_recipes,
    "source": _list_files,
    "destination": _list_files,
    "before": _list_builds,
    "after": _list_builds,
    "topic": lambda _: [each.name for each in pages.list_pages()],
}
