"""The reference of tasks, keys of recipes, settings, the manifest and exit codes, generated from the code."""

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

Tasks, keys of recipes, settings, the manifest and exit codes. `./inv reference` generates this page from the code;
with `--help` a task prints its part.
"""

#: The options in front of the tasks: their names, whether they take a value, and their help. They are copied from
#: `cli.program`, which this package must not import; a test compares them.
CORE = (
    ("config", "f", True, "Read settings from this file, too."),
    ("connect", "c", True, "Which libvirt: auto, embedded or qemu:///system."),
    ("debug", "d", False, "Show debug messages and tracebacks."),
    ("help", "h", False, "Show this help, or that of a task."),
    ("list", "l", False, "List the tasks."),
    ("print-completion-script", "", True, "Print the completion script for bash, zsh or fish."),
    ("project", "C", True, "Use this project directory."),
    ("quiet", "q", False, "Print no progress, as for cron."),
    ("verbose", "v", False, "Print each command that runs."),
    ("version", "V", False, "Show the version."),
)

_EXIT_CODES = """\
## Exit codes { #exit-codes }

| code | meaning |
|---|---|
| 0 | success |
| 1 | a check failed: in `verify`, `demo`, `doctor`, `status`; a recipe or a guest's upgrade failed in `nightly`; a guest came up after `upgrade`, but did not pass, and was rolled back; a test failed in `test` |
| 2 | an error that the user can fix, such as a wrong command line: one line with the error, one line with a hint. Also: a guest did not come up after `upgrade`, and was rolled back |
| 70 | a bug in virtroot |
| 130 | Ctrl-C; for `nightly` and `run` also SIGTERM. The task cleans up first. For other signals the shell returns the code of the signal |
| other | the exit code of the command that `exec` or `run` ran in the guest, or that of ssh, scp or virsh in `ssh`, `cp` or `console` |
"""  # noqa: E501 - a row of a table is one line


def make_page(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> str:
    """Return the page; ``tasks`` has the options of each task, ``docstrings`` its docstring."""
    return "\n".join(
        [
            _HEAD,
            *_format_core(),
            *_format_tasks(tasks, docstrings),
            *_format_recipe(),
            *_format_settings(),
            *_format_manifest(),
            _EXIT_CODES.rstrip("\n"),
            "",
        ]
    )


def _format_core() -> Iterator[str]:
    yield "## Options of every task { #options }\n"
    yield "They may be in front of a task or behind it, but not behind `--`, which starts a command for a guest.\n"
    yield "| option | |\n|---|---|"
    for name, letter, takes_value, what in CORE:
        long = f"`--{name}{f' {_format_value(name)}' * takes_value}`"
        yield f"| {long}{f', `-{letter}`' if letter else ''} | {_format_cell(what)} |"
    yield ""


def _format_value(option: str) -> str:
    return option.upper().replace("-", "_")


def _format_tasks(tasks: Mapping[str, ParserContext], docstrings: Mapping[str, str]) -> Iterator[str]:
    yield "## Tasks\n"
    for name in sorted(tasks):
        context = tasks[name]
        # An argument that may be given several times requires its option.
        names = (_format_name(argument) for argument in context.positional_args if argument.kind is not list)
        summary, _, more = inspect.cleandoc(docstrings[name]).partition("\n\n")
        yield f"### {name} {{ #task-{name} }}\n"
        yield f"`{' '.join(['./inv', name, *names])}`: {' '.join(summary.split())}\n"
        if more:
            yield "\n".join(["```text", more.rstrip(), "```", ""])
        if context.args:
            yield "| option | |\n|---|---|"
            for argument in sorted(context.args.values(), key=lambda each: each.names[0]):
                value = f" {_format_value(argument.names[0])}" if argument.takes_value else ""
                yield f"| `--{argument.names[0]}{value}` | {_format_cell(argument.help or '')} |"
            yield ""


def _format_name(argument: Argument) -> str:
    name = argument.names[0].upper()
    return name if argument.default is None else f"[{name}]"


def _format_recipe() -> Iterator[str]:
    yield "## Keys of a recipe { #keys-of-a-recipe }\n"
    yield "Empty defaults depend on the distribution; see [your first recipe](first-recipe.md).\n"
    schema = Recipe.model_json_schema()
    yield from _format_keys(schema, schema)
    for key, kind, more in (
        ("mirror", "Mirror", "`mirror` may also be an address, for a mirror without other keys, or a list of mirrors."),
        ("snapshot", "Snapshot", "`snapshot` may also be a time; the addresses are then those of the settings."),
        ("guest", "GuestDefaults", ""),
    ):
        yield f"### Keys of `{key}` {{ #keys-of-{key} }}\n"
        if more:
            yield f"{more}\n"
        yield from _format_keys(schema["$defs"][kind], schema)


def _format_keys(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | default | |\n|---|---|---|"
    for key, what in described["properties"].items():
        resolved = schema["$defs"][what["$ref"].rpartition("/")[2]] if "$ref" in what else what
        choices = resolved.get("enum", [])
        more = f" One of {', '.join(f'`{each}`' for each in choices)}." if choices else ""
        yield f"| `{key}` | {_format_default(what)} | {_format_cell(what.get('description', ''))}{more} |"
    yield ""


def _format_default(what: Mapping[str, Any]) -> str:
    default = what.get("default")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and what.get("type") == "string":
        # A size, which a recipe has with its unit.
        return f"`{format_size(default)}`"
    return "" if default in (None, "", [], ()) or isinstance(default, dict) else f"`{default}`"


def _format_settings() -> Iterator[str]:
    yield "## Settings { #settings }\n"
    yield (
        "Set them in `virtroot.yaml` of the [project directory](install.md#project), or in the environment as "
        "`INVOKE_VIRTROOT_` and the name in capitals, like `INVOKE_VIRTROOT_TIMEOUT=600`.\n"
    )
    yield "| setting | default | |\n|---|---|---|"
    for name, (default, what) in settings.describe_settings().items():
        yield f"| `{name}` | {f'`{default}`' if default else ''} | {_format_cell(what)} |"
    yield ""


def _format_manifest() -> Iterator[str]:
    yield "## The manifest { #manifest }\n"
    yield (
        "`manifest.json` is next to each tarball. Every later version of virtroot can read it: the recipe in it is "
        "data, which current rules do not apply to.\n"
    )
    schema = Manifest.model_json_schema(mode="serialization")
    yield from _format_fields(schema)
    for name, described in sorted(schema["$defs"].items()):
        yield f"### {name} {{ #manifest-{name.lower()} }}\n"
        if described.get("additionalProperties") is True:
            # Its docstring describes only the keys that the current code uses.
            yield "All keys of the recipe at the time of the build; see the [keys of a recipe](#keys-of-a-recipe).\n"
        else:
            yield f"{_format_paragraphs(described['description'])}\n"
        yield from _format_fields(described)


def _format_fields(described: Mapping[str, Any]) -> Iterator[str]:
    texts = {key: _format_cell(what.get("description", "")) for key, what in described["properties"].items()}
    # If the description of the type covers its fields, omit the empty column.
    yield "| field | type | |\n|---|---|---|" if any(texts.values()) else "| field | type |\n|---|---|"
    for key, what in described["properties"].items():
        yield f"| `{key}` | {_format_type(what)} |{f' {texts[key]} |' if any(texts.values()) else ''}"
    yield ""


def _format_type(what: Mapping[str, Any]) -> str:
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#manifest-{name.lower()})"
    if "anyOf" in what:
        return " or ".join(_format_type(each) for each in what["anyOf"])
    if what.get("type") == "array":
        return f"list of {_format_type(what['items'])}"
    if what.get("type") == "object":
        return f"names to {_format_type(what['additionalProperties'])}" if "additionalProperties" in what else "object"
    return {"null": "null", "integer": "integer", "number": "number", "boolean": "boolean"}.get(what["type"], "text")


def _format_paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).replace("``", "`").split("\n\n"))


def _format_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
