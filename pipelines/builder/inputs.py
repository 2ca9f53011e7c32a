"""What goes into a root: the recipe that a user names, its plan, and its trees, read from files and packed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.host import trees
from pipelines.host.trees import Packed
from pipelines.recipe import snapshot
from pipelines.recipe.parse import parse
from pipelines.recipe.plan import Plan, make_plan
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Tree
from pipelines.settings import CHECKOUT, Settings

_RECIPES = CHECKOUT / "recipes"
_SKELETONS = CHECKOUT / "pipelines" / "recipe" / "skeletons"

#: A recipe's name is that of a directory, a container and a volume too.
# What is not a recipe's in the output directory is the page of all recipes.
_NAME = re.compile(r"(?!.*\.\.|index\.html$)[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

#: What people call a distribution beside its own name, when they name guests after it.
_ENDINGS = ("linux",)


@dataclass(frozen=True)
class Inputs:
    """A recipe that was read: its file, its plan, and its trees packed as tar.

    ``overridden`` says that options replaced fields of the file: what is built is not what the file describes.
    ``overlay_paths`` are the files of its overlay, relative to the root.
    """

    source: Path
    plan: Plan
    trees: dict[Tree, Packed] = field(repr=False)
    overridden: bool = False
    overlay_paths: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name: its file's."""
        return self.source.stem

    @property
    def digests(self) -> dict[Tree, str]:
        """The content digest of each tree."""
        return {tree: packed.digest for tree, packed in self.trees.items()}

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.plan.recipe


def names() -> list[str]:
    """Return the names of the recipes in the checkout, of files that have a name for a recipe."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml") if _NAME.fullmatch(path.stem))


def source(named: str) -> Path:
    """Return the file of a recipe that is named by its file, or by its name in the checkout; it has to be there."""
    path = _path(named, "") if named in names() else _path("", named)
    if not path.is_file():
        raise _no_recipe(path)
    return path


def nightly() -> list[Path]:
    """Return the recipes of the checkout that a night builds; one that cannot be read is among them, and fails then."""
    return [path for path in sorted(_RECIPES.glob("*.yaml")) if _wants_nights(path)]


def _wants_nights(path: Path) -> bool:
    try:
        return parse(path.read_text(encoding="utf-8"), str(path)).nightly
    except (VirtrootError, OSError, ValueError):
        return True


def find(
    distro: str = "", recipe: str = "", overrides: Mapping[str, str] | None = None, *,
    snapshots: Mapping[str, str] | None = None,
) -> Inputs:  # fmt: skip
    """Read the recipe of ``distro`` or the file ``recipe``; ``overrides`` replace fields where not empty.

    ``snapshots`` has the address of each distribution's dated archive, for recipes that are made from one.
    """
    path = _path(distro, recipe)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _no_recipe(path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise VirtrootError(f"cannot read the recipe {path}: {error}", "name a readable YAML file in UTF-8") from error
    given = {key: value for key, value in (overrides or {}).items() if value}
    parsed = snapshot.resolve(parse(text, str(path), given), snapshots or {}, datetime.now(UTC))
    overlay = _overlay(path, parsed.overlay) if parsed.overlay else None
    overlay_paths = tuple(name for name, _ in trees.entries(overlay)) if overlay else ()
    plan = make_plan(parsed, overlay_paths)
    packed: dict[Tree, Packed] = {}
    for tree in plan.trees:
        if tree.kind == "keyring":
            packed[tree] = trees.pack_file(_beside(path, "keyring", tree.name))
        elif tree.kind == "overlay" and overlay:
            packed[tree] = trees.pack(overlay)
        else:
            packed |= skeletons([tree])
    return Inputs(path, plan, packed, overridden=bool(given), overlay_paths=overlay_paths)


def skeletons(wanted: Iterable[Tree]) -> dict[Tree, Packed]:
    """Return virtroot's own trees, packed."""
    return {tree: trees.pack(_SKELETONS / tree.name, ours=True) for tree in wanted}


def artifact(settings: Settings, name: str, distro: str, recipe: str, path: str) -> tuple[Artifact, str]:
    """Return the artifact that a guest is to be made from, and what it is in words.

    It is the one in ``path``, or a recipe's golden root or, where that has none, its latest build.

    Where nothing is said, it is what was imported as ``name``, or the recipe's that the name begins with; see `fits`.
    """
    if path:
        if distro or recipe:
            raise VirtrootError("--artifact given with --distro or --recipe", "give one of them")
        return Artifact(Path(path).resolve()), "artifact"
    if not distro and not recipe:
        imported = Store(settings.output_dir).imported(name)
        if imported:
            return imported, "imported system"
        fitting = [known for known in names() if fits(name, known)]
        if not fitting:
            raise VirtrootError(
                f"no recipe's name begins {name!r}",
                f"give --distro {' or '.join(names())}, --recipe FILE or --artifact DIR",
            )
        distro = max(fitting, key=len)
    source = _path(distro, recipe)
    return Store(settings.output_dir).best(source.stem, source)


def fits(guest: str, recipe: str) -> bool:
    """Say whether a guest's name is a recipe's, or that and more that is no word: arch, arch2, archlinux-3."""
    rest = guest.removeprefix(recipe)
    if rest == guest and guest != recipe:
        return False
    for ending in _ENDINGS:
        rest = rest.removeprefix(ending)
    return not rest[:1].isalpha()


def schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema(mode="validation")}


def _no_recipe(path: Path) -> VirtrootError:
    return VirtrootError(f"no recipe {path}", f"recipes here: {', '.join(names())}")


def _path(distro: str, recipe: str) -> Path:
    if distro and recipe:
        raise VirtrootError("--distro and --recipe both given", "give one of them")
    if recipe:
        path = Path(recipe)
        if not _NAME.fullmatch(path.stem):
            raise VirtrootError(
                f"{path.name!r} is no name for a recipe's file",
                "begin with a letter or digit; then letters, digits, and . _ -: containers are called after it",
            )
        return path
    if not distro:
        raise VirtrootError("no recipe named", f"give --distro {' or '.join(names())}, or --recipe FILE")
    if distro not in names():
        raise VirtrootError(f"no recipe {distro}", f"recipes here: {', '.join(names())}; or give --recipe FILE")
    return _RECIPES / f"{distro}.yaml"


def _beside(recipe: Path, key: str, name: str) -> Path:
    """Return the path ``name`` beside a recipe; raises `VirtrootError` where it, or a link in it, leads elsewhere.

    A recipe may come from anybody: what it names is read as root, and ends in a root that others see.
    """
    home = recipe.parent.resolve()
    path = (home / name).resolve()
    if not path.is_relative_to(home) or path == home:
        raise VirtrootError(
            f"{recipe}: {key}: {name} is not beneath {home}", "put it beside the recipe, and name it from there"
        )
    return path


def _overlay(recipe: Path, overlay: str) -> Path:
    directory = _beside(recipe, "overlay", overlay)
    if not directory.is_dir():
        raise VirtrootError(f"{recipe}: overlay: no directory {directory}", "paths of overlays start beside the recipe")
    return directory
