"""Command lines: how names, options and settings are read, and what is refused."""

from __future__ import annotations

import re

import pytest

import tasks
from pipelines.cli.command_line import Line
from pipelines.errors import VirtrootError
from tests.support.command_lines import run_line

TAKING_A_GUEST = [name for name, context in tasks.program.contexts.items() if "name" in context.args]


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("start web", {"start": ("web", "auto")}),
        ("start --name web", {"start": ("web", "auto")}),
        ("start --name=web", {"start": ("web", "auto")}),
        ("start --connect embedded web", {"start": ("web", "embedded")}),
        ("start web -cembedded", {"start": ("web", "embedded")}),
        ("install web --distro debian", {"install": ("web", "debian", 0, "", False, [])}),
        ("install --force web", {"install": ("web", "", 0, "", True, [])}),
        ("install -Fd debian --vcpus 2 web", {"install": ("web", "debian", 2, "", True, [])}),
        ("install web --hostname -x-", {"install": ("web", "", 0, "-x-", False, [])}),
        ("install web --share a --share=b", {"install": ("web", "", 0, "", False, ["a", "b"])}),
        ("verify web", {"verify": ("web", "", True)}),
        ("verify --distro debian", {"verify": ("", "debian", True)}),
        ("verify --no-boot web", {"verify": ("web", "", False)}),
        ("verify --distro debian start web", {"verify": ("", "debian", True), "start": ("web", "auto")}),
        ("start verify", {"start": ("verify", "auto")}),
        ("install web start web", {"install": ("web", "", 0, "", False, []), "start": ("web", "auto")}),
        ("exec web -- uname -r", {"exec": ("web", "uname -r")}),
        ("exec web -- ls --help", {"exec": ("web", "ls --help")}),
    ],
)
def test_names_and_options_reach_the_task(line: str, called: dict[str, object]) -> None:
    assert run_line(*line.split()) == called


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("strat web", "unknown task 'strat'"),
        ("start", "start needs a name"),
        ("pin", "pin needs an artifact"),
        ("start --name", "--name needs a value"),
        ("start --name --connect x", "--name needs a value"),
        ("start --nope", "start: unknown option '--nope'"),
        ("start -x", "start: unknown option '-x'"),
        ("start web two", "start: unexpected argument 'two'"),
        ("start web --name other", "--name was given twice: 'web' and 'other'"),
        ("install web --vcpus many", "--vcpus: not an integer: 'many'"),
        ("install --force=no web", "--force takes no value"),
        ("install -F=no web", "-F takes no value"),
        ("--dry start web", "inv: unknown option '--dry'"),
        ("publish --help", "unknown task 'publish'"),
        ("publish -h", "unknown task 'publish'"),
        ("--help publish", "unknown task 'publish'"),
        ("publish x --nope --help", "unknown task 'publish'"),
        ("start web frob --help", "start: unexpected argument 'frob'"),
        ("install web --vcpus 0", "--vcpus: less than 1: '0'"),
        ("install web --vcpus=-2", "--vcpus: less than 1: '-2'"),
        ("--print-completion-script tcsh", "no completion script for shell 'tcsh'"),
    ],
)
def test_an_invalid_command_line_is_refused(line: str, what: str) -> None:
    with pytest.raises(VirtrootError, match=what) as refused:
        run_line(*line.split())
    assert refused.value.exit_code == 2


def takes_values() -> list[tuple[str, str]]:
    return [
        (name, argument.names[0])
        for name, context in tasks.program.contexts.items()
        for argument in context.args.values()
        if argument.takes_value
    ]


def read(*words: str) -> None:
    line = Line(tasks.program.initial_context, tasks.program.contexts)
    for word in words:
        line.take(word)


@pytest.mark.parametrize(("name", "option"), takes_values())
def test_no_option_of_any_task_takes_an_empty_value(name: str, option: str) -> None:
    for words in ([f"--{option}="], [f"--{option}", ""]):
        with pytest.raises(VirtrootError, match=f"--{option} is empty"):
            read(name, *words)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(VirtrootError, match="--name is empty"):
        run_line("start", "")


@pytest.mark.parametrize(("name", "option"), takes_values())
def test_a_number_must_be_positive(name: str, option: str) -> None:
    argument = tasks.program.contexts[name].args[option]
    if argument.kind is int:
        for value in ("0", "-1"):
            with pytest.raises(VirtrootError, match="less than 1"):
                read(name, f"--{option}={value}")


@pytest.mark.parametrize("name", TAKING_A_GUEST)
def test_a_guests_name_needs_no_option(name: str) -> None:
    further = {"share": "share", "unshare": "tag", "import": "source", "clone": "to"}
    further |= {"snapshot": "snapshot", "restore": "snapshot"}
    more = [further[name]] if name in further else []
    assert [argument.names[0] for argument in tasks.program.contexts[name].positional_args] == ["name", *more]


@pytest.mark.parametrize("value", ["soon", ""])
def test_settings_in_the_environment_are_read_as_text(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoke would convert the value to a number, or fail with a traceback. Settings are validated elsewhere."""
    monkeypatch.setenv("INVOKE_VIRTROOT_TIMEOUT", value)
    with pytest.raises(VirtrootError, match=re.escape(f"invalid setting virtroot.timeout: {value!r}")):
        tasks.program.run(["inv", "build", "--distro", "debian"])
