"""What `./inv` prints about itself: the help of tasks and the version."""

from __future__ import annotations

import tomllib

import pytest

import pipelines
import tasks
from pipelines.settings import CHECKOUT
from tests.support.command_lines import TASKS, run_line


def test_the_help_of_each_task_shows_the_option_of_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("exec", "install", "schema"):
        tasks.program.run(["inv", name, "--help"])
        assert capsys.readouterr().out.count("--connect=STRING") == 1, name


@pytest.mark.parametrize("asking", [["--help"], ["-h"]])
@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_help(name: str, asking: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([name, *asking], [*asking, name], [name, "--connect", "embedded", *asking]):
        tasks.program.run(["inv", *line])
        shown = capsys.readouterr().out
        assert shown.startswith(f"Usage: ./inv {name} ")
        for argument in tasks.program.contexts[name].args.values():
            assert f"--{argument.names[0]}" in shown
            assert argument.help, f"{name} --{argument.names[0]} does not say what it is"


def test_help_is_for_the_last_task_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    for line, name in {
        "start --name web --help": "start",
        "install web --distro debian --vcpus 2 -h": "install",
        "install web --vcpus many --nope --help": "install",
        "start verify --help": "start",
        "start web verify --help": "verify",
        "--help=verify": "verify",
        "install -Fh": "install",
    }.items():
        assert run_line(*line.split()) == {}
        assert capsys.readouterr().out.startswith(f"Usage: ./inv {name} "), line


def test_no_task_has_an_option_h() -> None:
    assert not [name for name, context in tasks.program.contexts.items() if "-h" in context.flags]


def test_help_alone_shows_options_and_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: ./inv ")
    assert all(f"\n  {name} " in shown for name in TASKS)


def test_the_version_is_defined_once(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"] == {"path": "pipelines/__init__.py"}
    tasks.program.run(["inv", "--version"])
    assert capsys.readouterr().out == f"virtroot {pipelines.__version__}\n"
