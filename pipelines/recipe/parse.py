"""Recipe text to `Recipe`, with every mistake reported at once and at its line."""

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
    """Parse and validate a recipe; ``overrides`` (field to value, from the command line) win over the text.

    Raises `VirtrootError` with one line for each mistake, as ``source:line: key: what is wrong``.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise VirtrootError(
            f"{source}:{line}: not valid YAML: {error.problem}", "mend the indentation or quoting there"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise VirtrootError(f"{source}: not valid YAML: {error}", "save the recipe as UTF-8 text") from error
    if not isinstance(data, dict):
        raise VirtrootError(
            f"{source}: a recipe is a mapping of keys to values", "begin with a line like distro: debian"
        )
    mistakes = [f"{source}:{line}: {key}: given twice" for key, line in _duplicates(node)]
    overrides = overrides or {}
    recipe = None
    try:
        recipe = Recipe.model_validate({**_defaults(data), **data, **overrides})
    except ValidationError as error:
        for mistake in error.errors():
            mistakes.append(_describe(mistake, source, node, overrides))
    else:
        mistakes += [_at(line, [line.partition(":")[0]], source, node, overrides) for line in _misfits(recipe)]
    if mistakes or recipe is None:
        what = mistakes[0] if len(mistakes) == 1 else f"{len(mistakes)} mistakes in {source}"
        raise VirtrootError(
            what,
            f"keys of a recipe: {', '.join(Recipe.model_fields)}; of guest: {', '.join(GuestDefaults.model_fields)}",
            "\n".join(mistakes) if len(mistakes) > 1 else "",
        )
    return recipe


def _defaults(data: dict[str, Any]) -> dict[str, str]:
    """Return what the recipe's distribution says where the recipe says nothing."""
    distro = DISTROS.get(str(data.get("distro", "")))
    if distro is None:
        return {}
    return {
        "release": distro.releases[0],
        "bootstrap": distro.bootstraps[0],
        "generator": generators.names(distro.name)[0],
        "kernel": distro.kernel,
    }


def _misfits(recipe: Recipe) -> list[str]:
    """Return what the recipe asks that its distribution does not have, as ``key: why``."""
    distro = DISTROS[recipe.distro]
    choices = (
        ("release", recipe.release, distro.releases),
        ("bootstrap", recipe.bootstrap, distro.bootstraps),
        ("generator", recipe.generator, generators.names(recipe.distro)),
    )
    unknown = [
        f"{key}: {value!r} is not known for {recipe.distro}; use {' or '.join(allowed)}"
        for key, value, allowed in choices
        if value not in allowed
    ]
    return unknown + distro.refuses(recipe)


def _describe(mistake: Any, source: str, node: Any, overrides: Mapping[str, str]) -> str:
    message = str(mistake["msg"]).removeprefix("Value error, ")
    place = [str(part) for part in mistake["loc"]]
    message = {"extra_forbidden": "unknown key", "missing": "required and missing"}.get(mistake["type"], message)
    return _at(f"{'.'.join(place)}: {message}", place, source, node, overrides)


def _at(line: str, place: list[str], source: str, node: Any, overrides: Mapping[str, str]) -> str:
    """Say where a mistake is: on the command line, or in a line of the recipe."""
    return f"--{line}" if place[0] in overrides else f"{source}:{_line(node, place)}: {line}"


def _line(node: Any, place: list[str]) -> int:
    """Find the line of ``place``, as deep as the document has it."""
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


def _duplicates(node: Any) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append((key.value, key.start_mark.line + 1))
            seen.add(key.value)
            found += _duplicates(value)
    return found
