"""The inputs of a build: the recipe, its plan, and its trees, read from files and packed."""

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
from pipelines.project import PROGRAM
from pipelines.recipe import snapshot
from pipelines.recipe.parse import parse
from pipelines.recipe.plan import Plan, make_plan
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Tree
from pipelines.settings import Settings
from pipelines.text import split_lines

_SKELETONS = PROGRAM / "pipelines" / "recipe" / "skeletons"

#: A recipe's name is also the name of a directory, a container and a volume. In the output directory, index.html is the
#: page of all recipes.
_NAME = re.compile(r"(?!.*\.\.|index\.html$)[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

_DEFAULTS = Settings()

#: Suffixes that may follow a distribution's name in the name of a guest.
_SUFFIXES = ("linux",)


@dataclass(frozen=True)
class Inputs:
    """A parsed recipe: its file, its plan, and its trees packed as tar.

    ``overridden`` is True if options replaced fields of the file, so that the build differs from the file.
    ``overlay_paths`` are the files of its overlay, relative to the root.
    """

    source: Path
    plan: Plan
    trees: dict[Tree, Packed] = field(repr=False)
    overridden: bool = False
    overlay_paths: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name: that of its file, without the suffix."""
        return self.source.stem

    @property
    def digests(self) -> dict[Tree, str]:
        """The digest of each tree's content."""
        return {tree: packed.digest for tree, packed in self.trees.items()}

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.plan.recipe


def list_names(settings: Settings) -> list[str]:
    """Return the names of the project's recipes; files with an invalid name are skipped."""
    return sorted(path.stem for path in settings.recipes_dir.glob("*.yaml") if _NAME.fullmatch(path.stem))


def get_source(named: str, settings: Settings) -> Path:
    """Return the file of a recipe, given by its path or its name in the project. Raises VirtrootError if missing."""
    path = _find_path(named, "", settings) if named in list_names(settings) else _find_path("", named, settings)
    if not path.is_file():
        raise _make_missing_error(path, settings)
    return path


def list_nightly(settings: Settings) -> list[Path]:
    """Return the project's recipes that a nightly run builds, and broken ones, so that the run reports them."""
    return [path for path in sorted(settings.recipes_dir.glob("*.yaml")) if _is_nightly(path)]


def _is_nightly(path: Path) -> bool:
    try:
        return parse(path.read_text(encoding="utf-8"), str(path)).nightly
    except (VirtrootError, OSError, ValueError):
        return True


def find(
    distro: str = "", recipe: str = "", overrides: Mapping[str, str] | None = None, *, settings: Settings = _DEFAULTS
) -> Inputs:
    """Read the recipe named ``distro`` or the file ``recipe``, and make its plan.

    ``overrides`` replace fields of the recipe, unless they are empty. ``settings`` say where recipes are, and have the
    address of each distribution's dated archive, for recipes with a snapshot. Raises VirtrootError for an invalid
    recipe.
    """
    path = _find_path(distro, recipe, settings)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _make_missing_error(path, settings) from error
    except (OSError, UnicodeDecodeError) as error:
        raise VirtrootError(f"cannot read the recipe {path}: {error}", "use a readable YAML file in UTF-8") from error
    given = {key: value for key, value in (overrides or {}).items() if value}
    parsed = snapshot.resolve(parse(text, str(path), given), settings.snapshots, datetime.now(UTC))
    overlay = _find_overlay(path, parsed.overlay) if parsed.overlay else None
    overlay_paths = tuple(name for name, _ in trees.list_entries(overlay)) if overlay else ()
    plan = make_plan(parsed, overlay_paths)
    packed: dict[Tree, Packed] = {}
    for tree in plan.trees:
        if tree.kind == "keyring":
            packed[tree] = trees.pack_file(_resolve_inside(path, "keyring", tree.name))
        elif tree.kind == "overlay" and overlay:
            packed[tree] = trees.pack(overlay)
        else:
            packed |= pack_skeletons([tree])
    return Inputs(path, plan, packed, overridden=bool(given), overlay_paths=overlay_paths)


def pack_skeletons(wanted: Iterable[Tree]) -> dict[Tree, Packed]:
    """Pack virtroot's own trees."""
    return {tree: trees.pack(_SKELETONS / tree.name, ours=True, links=_read_links(tree.name)) for tree in wanted}


def _read_links(skeleton: str) -> dict[str, str]:
    """Return the symbolic links of a skeleton, path to target. They are lines of a file: a wheel cannot have links."""
    path = _SKELETONS / f"{skeleton}.links"
    lines = split_lines(path.read_text(encoding="utf-8")) if path.is_file() else []
    return dict(line.split(" ", 1) for line in lines)


def choose_artifact(settings: Settings, name: str, distro: str, recipe: str, path: str) -> tuple[Artifact, str]:
    """Return the artifact for a new guest ``name``, and its kind in words.

    It is the artifact in ``path``; or the golden root of the recipe ``distro`` or ``recipe`` or, without one, its
    latest build. If none of them is given, it is the system imported as ``name``, or that of the recipe that ``name``
    is derived from, see `is_named_after`.
    """
    if path:
        if distro or recipe:
            raise VirtrootError("--artifact and --distro or --recipe exclude each other", "use only one of them")
        return Artifact(Path(path).resolve()), "artifact"
    if not distro and not recipe:
        imported = Store(settings.output_dir).imported(name)
        if imported:
            return imported, "imported system"
        fitting = [known for known in list_names(settings) if is_named_after(name, known)]
        if not fitting:
            raise VirtrootError(
                f"no recipe matches the name {name!r}",
                f"use --distro {' or '.join(list_names(settings))}, --recipe FILE or --artifact DIR",
            )
        distro = max(fitting, key=len)
    source = _find_path(distro, recipe, settings)
    return Store(settings.output_dir).best(source.stem, source)


def is_named_after(guest: str, recipe: str) -> bool:
    """Return whether a guest is named after a recipe: arch, arch2, archlinux-3, but not archive."""
    rest = guest.removeprefix(recipe)
    if rest == guest and guest != recipe:
        return False
    for ending in _SUFFIXES:
        rest = rest.removeprefix(ending)
    return not rest[:1].isalpha()


def make_schema() -> dict[str, Any]:
    """Make the JSON schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema(mode="validation")}


def _make_missing_error(path: Path, settings: Settings) -> VirtrootError:
    return VirtrootError(f"no recipe {path}", f"use a recipe of this project: {', '.join(list_names(settings))}")


def _find_path(distro: str, recipe: str, settings: Settings) -> Path:
    if distro and recipe:
        raise VirtrootError("--distro and --recipe exclude each other", "use only one of them")
    if recipe:
        path = Path(recipe)
        if not _NAME.fullmatch(path.stem):
            raise VirtrootError(
                f"invalid recipe file name {path.name!r}",
                "start with a letter or digit; then letters, digits, and . _ -, as in names of containers",
            )
        return path
    if not distro:
        raise VirtrootError("no recipe given", f"use --distro {' or '.join(list_names(settings))}, or --recipe FILE")
    if distro not in list_names(settings):
        raise VirtrootError(
            f"no recipe {distro}", f"use a recipe of this project: {', '.join(list_names(settings))}; or --recipe FILE"
        )
    return settings.recipes_dir / f"{distro}.yaml"


def _resolve_inside(recipe: Path, key: str, name: str) -> Path:
    """Return the path ``name`` relative to a recipe. Raises VirtrootError if it is not below the recipe's directory.

    Links are followed before the check. A recipe may come from a stranger, and root reads its files into a root that
    others can read.
    """
    home = recipe.parent.resolve()
    path = (home / name).resolve()
    if not path.is_relative_to(home) or path == home:
        raise VirtrootError(
            f"{recipe}: {key}: {name} is outside {home}", "put it into the recipe's directory, and use a relative path"
        )
    return path


def _find_overlay(recipe: Path, overlay: str) -> Path:
    directory = _resolve_inside(recipe, "overlay", overlay)
    if not directory.is_dir():
        raise VirtrootError(f"{recipe}: overlay: not a directory: {directory}", "use a path relative to the recipe")
    return directory
