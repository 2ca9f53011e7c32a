"""Names of artifacts: an id, or ``golden`` or ``latest`` of a recipe, or a number of builds before these."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

#: More digits than nine would exceed the entries of any directory.
_RELATIVE = re.compile(r"(golden|latest)(?:~([0-9]{1,9})?)?")

_HINT = "use RECIPE/BUILD, or RECIPE/golden, RECIPE/latest, RECIPE/latest~3 (the third build before it)"


def resolve(output: Path, text: str, recipe: str = "") -> Artifact:
    """Return the artifact below ``output`` that ``text`` names.

    ``text`` is an id (``recipe/build``), or ``golden`` or ``latest`` of a recipe with ``~N`` for the Nth build before
    it, in the order of ids. If it contains no recipe, ``recipe``, a name or a file, is used or, without that, the only
    recipe with builds. Raises VirtrootError if there is no such artifact.
    """
    store = Store(output)
    named, slash, build = text.rpartition("/")
    name = named if slash else recipe.rpartition("/")[2].removesuffix(".yaml")
    built = [each for each in store.kept() if store.builds(each)]
    if not name and not slash and len(built) == 1:
        (name,) = built
    if not name:
        raise VirtrootError(f"ambiguous artifact {text!r}: no recipe given", f"use --recipe NAME, or {_HINT}")
    builds = store.builds(name) if _is_name(name) else []
    if not builds:
        raise VirtrootError(f"no build of {name}", f"use one of the recipes with builds: {', '.join(built) or 'none'}")
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
        missing = f"no {relative[1]} build" if relative else f"no build {build}"
        raise VirtrootError(f"{name} has {missing}", f"{_HINT}; its builds: {_format_builds(names)}")
    place = names.index(start) - steps
    if place < 0:
        raise VirtrootError(
            f"{name} has no {build}: only {place + steps} builds are older than {start}",
            f"use one of its builds: {_format_builds(names)}",
        )
    return builds[place]


def _is_name(name: str) -> bool:
    return "/" not in name and "\0" not in name and not name.startswith(".")


def _format_builds(builds: list[str]) -> str:
    before = f" and {len(builds) - 5} older" if len(builds) > 5 else ""
    return f"{', '.join(builds[-5:])}{before}"


def list_names(output: Path) -> list[str]:
    """Return all names of artifacts below ``output``, for shell completion."""
    store = Store(output)
    found = [f"{each}/{artifact.directory.name}" for each in store.kept() for artifact in store.builds(each)]
    return [*(f"{each}/{link}" for each in store.kept() for link in ("golden", "latest")), *found]
