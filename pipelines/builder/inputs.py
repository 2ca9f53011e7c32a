"""Finds what a user names: recipes, their overlays and the skeletons, read from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.host import trees
from pipelines.recipe.parse import parse
from pipelines.recipe.plan import Plan, make_plan
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Tree
from pipelines.settings import CHECKOUT, Settings

_RECIPES = CHECKOUT / "recipes"
_SKELETONS = CHECKOUT / "pipelines" / "recipe" / "skeletons"


@dataclass(frozen=True)
class Wanted:
    """A recipe that was read: its name (the file's), its plan, and its trees packed as tar."""

    name: str
    plan: Plan
    trees: dict[Tree, bytes] = field(repr=False)

    @property
    def digests(self) -> dict[Tree, str]:
        """The content digest of each tree."""
        return {tree: trees.digest(packed) for tree, packed in self.trees.items()}

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.plan.recipe


def names() -> list[str]:
    """Return the names of the recipes in the checkout."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def find(distro: str = "", recipe: str = "", overrides: Mapping[str, str] | None = None) -> Wanted:
    """Read the recipe of ``distro`` or the file ``recipe``; ``overrides`` replace fields where not empty."""
    path = _path(distro, recipe)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise VirtrootError(f"no recipe {path}", f"recipes here: {', '.join(names())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise VirtrootError(f"cannot read the recipe {path}: {error}", "name a readable YAML file in UTF-8") from error
    given = {key: value for key, value in (overrides or {}).items() if value}
    wanted = parse(text, str(path), given)
    overlay = _overlay(path, wanted.overlay) if wanted.overlay else None
    overlay_paths = tuple(name for name, _ in trees.entries(overlay)) if overlay else ()
    plan = make_plan(wanted, overlay_paths)
    packed = {}
    for tree in plan.trees:
        if tree.kind == "keyring":
            packed[tree] = trees.pack_file(path.parent / tree.name)
        else:
            packed[tree] = trees.pack(overlay if tree.kind == "overlay" and overlay else _SKELETONS / tree.name)
    return Wanted(path.stem, plan, packed)


def artifact(settings: Settings, name: str, distro: str, recipe: str, path: str) -> Path:
    """Return the artifact's directory that a guest is to be made from: ``path``, or a recipe's latest build.

    Where nothing is said, the recipe is the one (longest first) that the guest's ``name`` begins with.
    """
    if path:
        if distro or recipe:
            raise VirtrootError("--artifact given with --distro or --recipe", "give one of them")
        return Path(path).resolve()
    store = Store(settings.output_dir)
    if distro or recipe:
        return store.latest(_path(distro, recipe).stem)
    fitting = sorted((known for known in names() if name.startswith(known)), key=len, reverse=True)
    if not fitting:
        raise VirtrootError(
            f"no recipe's name begins {name!r}",
            f"give --distro {' or '.join(names())}, --recipe FILE or --artifact DIR",
        )
    return store.latest(fitting[0])


def schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema(mode="validation")}


def _path(distro: str, recipe: str) -> Path:
    if distro and recipe:
        raise VirtrootError("--distro and --recipe both given", "give one of them")
    if recipe:
        return Path(recipe)
    if not distro:
        raise VirtrootError("no recipe named", f"give --distro {' or '.join(names())}, or --recipe FILE")
    if distro not in names():
        raise VirtrootError(f"no recipe {distro}", f"recipes here: {', '.join(names())}; or give --recipe FILE")
    return _RECIPES / f"{distro}.yaml"


def _overlay(recipe: Path, overlay: str) -> Path:
    directory = recipe.parent / overlay
    if not directory.is_dir():
        raise VirtrootError(f"{recipe}: overlay: no directory {directory}", "paths of overlays start beside the recipe")
    return directory
