"""The reference: tasks, keys of recipes, settings, the manifest and exit codes, written from the code itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pipelines import settings
from pipelines.artifact.manifest import Manifest
from pipelines.recipe.recipe import Recipe

_HEAD = """\
# Reference

Tasks, keys of recipes, settings, the manifest and exit codes. This page is written from the code by `./inv reference`;
each task says the same with `--help`.
"""

_EXIT_CODES = """\
## Exit codes { #exit-codes }

| code | what it means |
|---|---|
| 0 | done |
| 1 | a check said no: `verify`, `status`, `doctor`, or an upgraded guest that went back |
| 2 | something that you can mend, the command line included: one line what, one line what to try |
| 70 | a bug of virtroot's own |
| 130 | Ctrl-C, or another signal that ends a task |
| other | what the command said that `exec`, `run` or `ssh` ran |
"""


def text(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> str:
    """Return the page; ``tasks`` are what the command line takes, ``docstrings`` what each task says of itself."""
    return "\n".join(
        [
            _HEAD,
            *_tasks(tasks, docstrings),
            *_recipe(),
            *_settings(),
            *_manifest(),
            _EXIT_CODES.rstrip("\n"),
            "",
        ]
    )


def _tasks(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> Iterator[str]:
    yield "## Tasks\n"
    for name in sorted(tasks):
        context = tasks[name]
        names = (_name(argument) for argument in context.positional_args)
        summary, _, more = inspect.cleandoc(docstrings[name]).partition("\n\n")
        yield f"### {name} {{ #task-{name} }}\n"
        yield f"`{' '.join(['./inv', name, *names])}`: {' '.join(summary.split())}\n"
        if more:
            yield "\n".join(["```text", more.rstrip(), "```", ""])
        if context.args:
            yield "| option | |\n|---|---|"
            for argument in sorted(context.args.values(), key=lambda each: each.names[0]):
                value = f" {argument.names[0].upper().replace('-', '_')}" if argument.takes_value else ""
                yield f"| `--{argument.names[0]}{value}` | {_cell(argument.help or '')} |"
            yield ""


def _name(argument: Argument) -> str:
    name = argument.names[0].upper()
    return name if argument.default is None else f"[{name}]"


def _recipe() -> Iterator[str]:
    yield "## Keys of a recipe { #keys-of-a-recipe }\n"
    yield "Defaults that are empty are the distribution's; see [your first recipe](first-recipe.md).\n"
    schema = Recipe.model_json_schema()
    yield from _keys(schema, schema)
    yield "### Keys of `guest`\n"
    yield from _keys(schema["$defs"]["GuestDefaults"], schema)


def _keys(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | default | |\n|---|---|---|"
    for key, what in described["properties"].items():
        resolved = schema["$defs"][what["$ref"].rpartition("/")[2]] if "$ref" in what else what
        choices = resolved.get("enum", [])
        more = f" One of {', '.join(f'`{each}`' for each in choices)}." if choices else ""
        yield f"| `{key}` | {_default(what)} | {_cell(what.get('description', ''))}{more} |"
    yield ""


def _default(what: Mapping[str, Any]) -> str:
    default = what.get("default")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "" if default in (None, "", [], ()) or isinstance(default, dict) else f"`{default}`"


def _settings() -> Iterator[str]:
    yield "## Settings { #settings }\n"
    yield (
        "In `invoke.yaml` of the checkout under `virtroot:`, or in the environment as `INVOKE_VIRTROOT_` and the name "
        "in capitals, like `INVOKE_VIRTROOT_TIMEOUT=600`.\n"
    )
    yield "| setting | default | |\n|---|---|---|"
    for name, (default, what) in settings.described().items():
        yield f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(what)} |"
    yield ""


def _manifest() -> Iterator[str]:
    yield "## The manifest { #manifest }\n"
    yield (
        "`manifest.json` lies beside each tarball. Every later version of virtroot reads it: what it says of a recipe "
        "is data.\n"
    )
    schema = Manifest.model_json_schema()
    yield from _fields(schema)
    for name in ("Boot", "Rootfs", "StageTime", "Origin", "Verdict"):
        described = schema["$defs"][name]
        yield f"### {name} {{ #manifest-{name.lower()} }}\n"
        yield f"{_paragraphs(described['description'])}\n"
        yield from _fields(described)


def _fields(described: Mapping[str, Any]) -> Iterator[str]:
    told = {key: _cell(what.get("description", "")) for key, what in described["properties"].items()}
    # Where the type's own words say what its fields are, a column would be empty.
    yield "| field | type | |\n|---|---|---|" if any(told.values()) else "| field | type |\n|---|---|"
    for key, what in described["properties"].items():
        yield f"| `{key}` | {_type(what)} |{f' {told[key]} |' if any(told.values()) else ''}"
    yield ""


def _type(what: Mapping[str, Any]) -> str:
    if "$ref" in what:
        return f"`{what['$ref'].rpartition('/')[2]}`"
    if "anyOf" in what:
        return " or ".join(_type(each) for each in what["anyOf"])
    if what.get("type") == "array":
        return f"list of {_type(what['items'])}"
    if what.get("type") == "object":
        return f"names to {_type(what['additionalProperties'])}" if "additionalProperties" in what else "object"
    return {"null": "null", "integer": "integer", "number": "number", "boolean": "boolean"}.get(what["type"], "text")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).replace("``", "`").split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
