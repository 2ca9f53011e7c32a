"""Commands of a stage: run in one go, logged with their times, and told apart where one fails."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from pipelines.builder import inputs
from pipelines.builder.container import Builder
from pipelines.builder.stages import StageRunner
from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.recipe.stage import Command, Stage


@pytest.fixture
def builder() -> Any:
    """A builder whose commands run here."""

    def run(argv: Sequence[str], *, stderr: Callable[[bytes], object], **_: object) -> Completed:
        done = subprocess.run(argv, capture_output=True, check=False)
        stderr(done.stderr)
        return Completed(tuple(argv), done.returncode, done.stdout, b"")

    double = create_autospec(Builder, instance=True)
    double.run.side_effect = run
    return double


@pytest.fixture
def runner(tmp_path: Path) -> StageRunner:
    return StageRunner(inputs.find("debian").trees, tmp_path / "build.log", tmp_path / "failed.log", nullcontext)


def shell(script: str, *data: str, **env: str) -> Command:
    return Command(("sh", "-c", script, "shell", *data), env=tuple(env.items()))


def carried_out(runner: StageRunner, builder: Any, *commands: Command) -> None:
    with runner.logged("packages"):
        runner.run(Stage("packages", commands), builder)


def test_commands_run_in_order_each_with_its_own_words_and_environment(
    runner: StageRunner, builder: Any, tmp_path: Path
) -> None:
    odd = """a "b' $(touch gone) `id` ; * \n\\"""
    commands = (shell('printf %s "$1"', odd), shell('echo "$GREETING, $(wc -c)"', GREETING="hello  you"), shell("exit"))
    carried_out(runner, builder, *commands)
    log = (tmp_path / "build.log").read_text()
    assert odd + "= " in log
    assert "hello  you, 0\n" in log
    assert len(re.findall(r"^\$ ", log, re.MULTILINE)) == 3
    assert len(re.findall(r"= \d+\.\d{3} s$", log, re.MULTILINE)) == 3
    assert builder.run.call_count == 1
    (timed,) = runner.times
    assert (timed.name, timed.cached) == ("packages", False)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_command_that_fails_is_named_and_the_last(
    runner: StageRunner, builder: Any, tmp_path: Path, number: int
) -> None:
    commands = [Command(("true",)), Command(("true",)), Command(("true",))]
    # What a command prints cannot pass for which one failed.
    commands[number] = Command(("sh", "-c", "echo 7; exit 42"))
    with pytest.raises(VirtrootError, match="stage packages: sh exited with 42") as error:
        carried_out(runner, builder, *commands)
    assert error.value.where == "build"
    assert (tmp_path / "build.log").read_text().count("$ true") == number
    assert runner.times == []


@pytest.mark.parametrize(
    "says",
    [
        "E: Failed to fetch http://mirror.example/x.deb  Connection failed",
        "E: Unable to fetch some archives",
        "W: Couldn't download package dash",
        "error: failed retrieving file 'core.db' from mirror.example",
        "Temporary failure resolving 'mirror.example'",
    ],
)
def test_a_download_that_failed_is_the_mirrors_failure(runner: StageRunner, builder: Any, says: str) -> None:
    with pytest.raises(VirtrootError) as error:
        carried_out(runner, builder, shell('echo "$1" >&2; exit 100', says))
    assert error.value.where == "mirror"


def test_what_a_broken_root_is_told_by_and_what_an_engine_is(runner: StageRunner) -> None:
    def where(error: VirtrootError) -> str:
        with pytest.raises(VirtrootError) as raised, runner.logged("inspect", where="inspect"):
            raise error
        return raised.value.where

    assert where(VirtrootError("no list of packages", "look")) == "inspect"
    assert where(VirtrootError("the container went away", "see its log", where="engine")) == "engine"


def test_a_builder_that_is_removed_blames_no_command(runner: StageRunner, builder: Any) -> None:
    builder.run.side_effect = lambda argv, **_: Completed(tuple(argv), 137, b"", b"")
    with pytest.raises(VirtrootError, match=r"the builder ended \(137\)") as raised:
        carried_out(runner, builder, shell("true"))
    assert raised.value.where == "engine"
