"""Recipe text to `Recipe`, with every mistake reported at once and at its line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.errors import VirtrootError
from pipelines.recipe.recipe import Guest, Recipe


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
        recipe = Recipe.model_validate({**data, **overrides})
    except ValidationError as error:
        for mistake in error.errors():
            mistakes += _describe(mistake, source, node, overrides)
    if mistakes or recipe is None:
        what = mistakes[0] if len(mistakes) == 1 else f"{len(mistakes)} mistakes in {source}"
        raise VirtrootError(
            what,
            f"keys of a recipe: {', '.join(Recipe.model_fields)}; of guest: {', '.join(Guest.model_fields)}",
            "\n".join(mistakes) if len(mistakes) > 1 else "",
        )
    return recipe


def _describe(mistake: Any, source: str, node: Any, overrides: Mapping[str, str]) -> list[str]:
    message = str(mistake["msg"]).removeprefix("Value error, ")
    place = [str(part) for part in mistake["loc"]]
    if place:
        message = {"extra_forbidden": "unknown key", "missing": "required and missing"}.get(mistake["type"], message)
        lines = [f"{'.'.join(place)}: {message}"]
    else:
        lines = message.splitlines()
    described = []
    for line in lines:
        key = line.partition(":")[0]
        if key in overrides:
            described.append(f"--{line}")
        else:
            described.append(f"{source}:{_line(node, place or [key])}: {line}")
    return described


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
