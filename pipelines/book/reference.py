"""The reference: tasks, keys of recipes, settings, the manifest and exit codes, written from the code itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pipelines import settings
from pipelines.artifact.manifest import Manifest
from pipelines.recipe.recipe import Recipe, format_size

_HEAD = """\
# Reference

Tasks, keys of recipes, settings, the manifest and exit codes. This page is written from the code by `./inv reference`;
each task says the same with `--help`.
"""

#: The options of every task: their names, whether they take a value, and what they do. The command line has
#: them in `cli.program`, which a book may not look into; a test compares.
CORE = (
    ("config", "f", True, "Read settings from this file, too."),
    ("connect", "c", True, "Which libvirt: auto, embedded or qemu:///system."),
    ("debug", "d", False, "Show debug messages and tracebacks."),
    ("help", "h", False, "Show this help, or that of a task."),
    ("list", "l", False, "List the tasks."),
    ("print-completion-script", "", True, "Print the completion script for bash, zsh or fish."),
    ("version", "V", False, "Show the version."),
)

_EXIT_CODES = """\
## Exit codes { #exit-codes }

| code | what it means |
|---|---|
| 0 | done |
| 1 | a check said no: `verify`, `demo`, `doctor`, `status`; a `nightly` in which a recipe failed, or whose upgrades left a guest behind; an `upgrade` of a guest that came up, did not pass, and went back; a `test` that failed |
| 2 | something that you can mend, the command line included: one line what, one line what to try. An `upgrade` of a guest that did not come up, and went back, is that, too |
| 70 | a bug of virtroot's own |
| 130 | Ctrl-C; and SIGTERM for `nightly` and `run`, which clear up first. What another signal ends, the shell gives the code of that signal |
| other | what the command said that `exec` or `run` ran in the guest, or what `ssh`, `cp`'s scp or `console`'s virsh ended with |
"""  # noqa: E501 - a row of a table is one line


def text(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> str:
    """Return the page; ``tasks`` are what the command line takes, ``docstrings`` what each task says of itself."""
    return "\n".join(
        [
            _HEAD,
            *_core(),
            *_tasks(tasks, docstrings),
            *_recipe(),
            *_settings(),
            *_manifest(),
            _EXIT_CODES.rstrip("\n"),
            "",
        ]
    )


def _core() -> Iterator[str]:
    yield "## Options of every task { #options }\n"
    yield "They stand before a task or behind it, but not behind `--`, where a command for a guest begins.\n"
    yield "| option | |\n|---|---|"
    for name, letter, takes_value, what in CORE:
        long = f"`--{name}{f' {_value(name)}' * takes_value}`"
        yield f"| {long}{f', `-{letter}`' if letter else ''} | {_cell(what)} |"
    yield ""


def _value(option: str) -> str:
    return option.upper().replace("-", "_")


def _tasks(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> Iterator[str]:
    yield "## Tasks\n"
    for name in sorted(tasks):
        context = tasks[name]
        # What may be given several times has no place without its option.
        names = (_name(argument) for argument in context.positional_args if argument.kind is not list)
        summary, _, more = inspect.cleandoc(docstrings[name]).partition("\n\n")
        yield f"### {name} {{ #task-{name} }}\n"
        yield f"`{' '.join(['./inv', name, *names])}`: {' '.join(summary.split())}\n"
        if more:
            yield "\n".join(["```text", more.rstrip(), "```", ""])
        if context.args:
            yield "| option | |\n|---|---|"
            for argument in sorted(context.args.values(), key=lambda each: each.names[0]):
                value = f" {_value(argument.names[0])}" if argument.takes_value else ""
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
    for key, kind, more in (
        ("mirror", "Mirror", "An address alone stands for a mirror without further keys, and a list for several."),
        ("snapshot", "Snapshot", "A time alone stands for a snapshot whose addresses the settings know."),
        ("guest", "GuestDefaults", ""),
    ):
        yield f"### Keys of `{key}` {{ #keys-of-{key} }}\n"
        if more:
            yield f"{more}\n"
        yield from _keys(schema["$defs"][kind], schema)


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
    if isinstance(default, int) and what.get("type") == "string":
        # A size, which people write with its unit.
        return f"`{format_size(default)}`"
    return "" if default in (None, "", [], ()) or isinstance(default, dict) else f"`{default}`"


def _settings() -> Iterator[str]:
    yield "## Settings { #settings }\n"
    yield (
        "In `invoke.yaml` of the checkout under `virtroot:`, or in the environment as `INVOKE_VIRTROOT_` and the name "
        "in capitals, like `INVOKE_VIRTROOT_TIMEOUT=600`.\n"
    )
    yield "| setting | default | |\n|---|---|---|"
    for name, (default, what) in settings.describe_settings().items():
        yield f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(what)} |"
    yield ""


def _manifest() -> Iterator[str]:
    yield "## The manifest { #manifest }\n"
    yield (
        "`manifest.json` lies beside each tarball. Every later version of virtroot reads it: what it says of a recipe "
        "is data.\n"
    )
    schema = Manifest.model_json_schema(mode="serialization")
    yield from _fields(schema)
    for name, described in sorted(schema["$defs"].items()):
        yield f"### {name} {{ #manifest-{name.lower()} }}\n"
        if described.get("additionalProperties") is True:
            # Its docstring says what today's code makes of it.
            yield "What was written then, and whatever else that had: see the [keys of a recipe](#keys-of-a-recipe).\n"
        else:
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
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#manifest-{name.lower()})"
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
