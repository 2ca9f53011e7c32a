"""How people name an artifact: by its id, or as ``golden`` or ``latest`` of a recipe, and so many builds before."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

#: At most as many digits as a directory can have entries.
_RELATIVE = re.compile(r"(golden|latest)(?:~([0-9]{1,9})?)?")

_FORMS = "write RECIPE/BUILD, or RECIPE/golden, RECIPE/latest, RECIPE/latest~3 (the third build before it)"


def resolve(output: Path, text: str, recipe: str = "") -> Artifact:
    """Return the artifact below ``output`` that ``text`` names.

    That is an id (``recipe/build``), or ``golden`` or ``latest`` of a recipe with ``~N`` for the Nth build before it,
    by the order of ids. ``recipe``, a name or a file, is the one that is meant where ``text`` names none; without it,
    the only one that has builds is. Raises `VirtrootError`, with what there is, where that is no artifact.
    """
    store = Store(output)
    named, slash, build = text.rpartition("/")
    name = named if slash else recipe.rpartition("/")[2].removesuffix(".yaml")
    built = [each for each in store.kept() if store.builds(each)]
    if not name and not slash and len(built) == 1:
        (name,) = built
    if not name:
        raise VirtrootError(f"{text!r} of which recipe?", f"give --recipe NAME, or {_FORMS}")
    builds = store.builds(name) if _is_name(name) else []
    if not builds:
        raise VirtrootError(f"there is no build of {name}", f"recipes with builds: {', '.join(built) or 'none'}")
    names = [each.directory.name for each in builds]
    relative = _RELATIVE.fullmatch(build)
    if relative:
        link = store.golden(name).artifact if relative[1] == "golden" else store.newest(name)
        start = link.directory.name if link else ""
        # A bare ~ is ~1.
        steps = int(relative[2] or 1) if "~" in build else 0
    else:
        start, steps = build, 0
    if start not in names:
        missing = f"nothing that is {relative[1]}" if relative else f"no build {build}"
        raise VirtrootError(f"{name} has {missing}", f"{_FORMS}; {_listed(names)}")
    place = names.index(start) - steps
    if place < 0:
        raise VirtrootError(f"{name} has no {build}: {place + steps} builds are older than {start}", _listed(names))
    return builds[place]


def _is_name(name: str) -> bool:
    return "/" not in name and "\0" not in name and not name.startswith(".")


def _listed(builds: list[str]) -> str:
    before = f" and {len(builds) - 5} older" if len(builds) > 5 else ""
    return f"builds: {', '.join(builds[-5:])}{before}"


def names(output: Path) -> list[str]:
    """Return what can be named below ``output``, for the shell's completion."""
    store = Store(output)
    found = [f"{each}/{artifact.directory.name}" for each in store.kept() for artifact in store.builds(each)]
    return [*(f"{each}/{link}" for each in store.kept() for link in ("golden", "latest")), *found]
