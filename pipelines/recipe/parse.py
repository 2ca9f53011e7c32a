"""The parser of recipes. It reports all mistakes at once, each with its line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.errors import VirtrootError
from pipelines.recipe import generators
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.recipe import GuestDefaults, Recipe


def parse(text: str, source: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Parse and validate a recipe.

    ``overrides`` maps fields to values of the command line, which replace those of the text. Raises VirtrootError with
    one line for each mistake: ``source:line: key: what is wrong``.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise VirtrootError(
            f"{source}:{line}: invalid YAML: {error.problem}", "fix the indentation or quoting there"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise VirtrootError(f"{source}: invalid YAML: {error}", "save the recipe as UTF-8 text") from error
    if not isinstance(data, dict):
        raise VirtrootError(
            f"{source}: not a mapping of keys to values", "start the recipe with a line like distro: debian"
        )
    mistakes = [f"{source}:{line}: {key}: duplicate key" for key, line in _find_duplicates(node)]
    overrides = overrides or {}
    recipe = None
    try:
        recipe = Recipe.model_validate({**_get_defaults(data), **data, **overrides})
    except ValidationError as error:
        for mistake in error.errors():
            mistakes.append(_describe_error(mistake, source, node, overrides))
    else:
        mistakes += [
            _add_location(line, [line.partition(":")[0]], source, node, overrides) for line in _find_mistakes(recipe)
        ]
    if mistakes or recipe is None:
        what = mistakes[0] if len(mistakes) == 1 else f"{len(mistakes)} mistakes in {source}"
        raise VirtrootError(
            what,
            f"use the keys {', '.join(Recipe.model_fields)}; in guest: {', '.join(GuestDefaults.model_fields)}",
            "\n".join(mistakes) if len(mistakes) > 1 else "",
        )
    return recipe


def _get_defaults(data: dict[str, Any]) -> dict[str, str]:
    """Return the defaults of the recipe's distribution."""
    distro = DISTROS.get(str(data.get("distro", "")))
    if distro is None:
        return {}
    return {
        "release": distro.releases[0],
        "bootstrap": distro.bootstraps[0],
        "generator": generators.list_names(distro.name)[0],
        "kernel": distro.kernel,
    }


def _find_mistakes(recipe: Recipe) -> list[str]:
    """Return what the recipe's distribution does not support, as ``key: reason``."""
    distro = DISTROS[recipe.distro]
    choices = (
        ("release", recipe.release, distro.releases),
        ("bootstrap", recipe.bootstrap, distro.bootstraps),
        ("generator", recipe.generator, generators.list_names(recipe.distro)),
    )
    unknown = [
        f"{key}: unknown for {recipe.distro}: {value!r}; use {' or '.join(allowed)}"
        for key, value, allowed in choices
        if value not in allowed
    ]
    return unknown + distro.find_mistakes(recipe)


def _describe_error(mistake: Any, source: str, node: Any, overrides: Mapping[str, str]) -> str:
    message = str(mistake["msg"]).removeprefix("Value error, ")
    place = [str(part) for part in mistake["loc"]]
    message = {"extra_forbidden": "unknown key", "missing": "required key is missing"}.get(mistake["type"], message)
    return _add_location(f"{'.'.join(place)}: {message}", place, source, node, overrides)


def _add_location(line: str, place: list[str], source: str, node: Any, overrides: Mapping[str, str]) -> str:
    """Return ``line`` with the place of the mistake in front: an option, or a line of the recipe."""
    return f"--{line}" if place[0] in overrides else f"{source}:{_find_line(node, place)}: {line}"


def _find_line(node: Any, place: list[str]) -> int:
    """Return the number of the line of ``place``, or of the deepest part of it that the document has."""
    line = int(node.start_mark.line)
    for part in place:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = int(key.start_mark.line), value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and part.isdigit():
            node = node.value[int(part)]
            line = int(node.start_mark.line)
        else:
            break
    return line + 1


def _find_duplicates(node: Any) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append((key.value, key.start_mark.line + 1))
            seen.add(key.value)
            found += _find_duplicates(value)
    return found
