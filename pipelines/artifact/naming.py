"""How people name a build: by its id, or by what it is to its recipe."""

from __future__ import annotations

import re

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

_RELATIVE = re.compile(r"(golden|latest)(?:~(\d{1,4}))?")


def resolve(store: Store, named: str, recipe: str = "") -> Artifact:
    """Return the build that ``named`` means: ``RECIPE/BUILD``, ``golden``, ``latest``, or ``latest~3``, three before.

    The last three are of ``recipe``, unless they begin with another one's name: ``web/golden``. Raises `VirtrootError`
    where there is no such build.
    """
    name, slash, build = named.rpartition("/")
    name = name if slash else recipe
    if not name:
        known = ", ".join(store.recipes()) or "none has builds yet"
        raise VirtrootError(f"{named!r} of which recipe?", f"write RECIPE/{named}; recipes: {known}")
    relative = _RELATIVE.fullmatch(build)
    if not relative:
        artifact = store.find(f"{name}/{build}")
        if artifact is None or artifact.directory.is_symlink():
            raise VirtrootError(f"no artifact {name}/{build}", _what_there_is(store, name))
        return artifact
    if name not in store.recipes():
        raise VirtrootError(f"nothing is kept of {name}", _what_there_is(store, name))
    first = store.golden(name).artifact if relative[1] == "golden" else store.newest(name)
    if first is None:
        raise VirtrootError(f"{name} has no {relative[1]} build", _what_there_is(store, name))
    before = int(relative[2] or 0)
    older = [each for each in store.builds(name) if each.directory.name <= first.directory.name]
    if before >= len(older):
        raise VirtrootError(
            f"{name} has {len(older)} builds up to its {relative[1]} one, not {before + 1}", _what_there_is(store, name)
        )
    return older[-1 - before]


def _what_there_is(store: Store, name: str) -> str:
    recipes = store.recipes()
    if name not in recipes:
        return f"recipes with builds: {', '.join(recipes) or 'none yet'}"
    builds = [each.directory.name for each in store.builds(name)]
    return f"builds of {name}: {', '.join(builds[-5:]) or 'none'}; or golden, latest, latest~3"
