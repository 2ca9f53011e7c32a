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
from pipelines.builder.stages import StageRunner, find_error, find_reason
from pipelines.errors import Phase, VirtrootError
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
    with runner.log_stage("packages"):
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
    def where(error: VirtrootError) -> Phase | None:
        with pytest.raises(VirtrootError) as raised, runner.log_stage("inspect", where=Phase.INSPECT):
            raise error
        return raised.value.where

    assert where(VirtrootError("no list of packages", "look")) == "inspect"
    assert where(VirtrootError("the container went away", "see its log", where=Phase.ENGINE)) == "engine"


def test_a_builder_that_is_removed_blames_no_command(runner: StageRunner, builder: Any) -> None:
    builder.run.side_effect = lambda argv, **_: Completed(tuple(argv), 137, b"", b"")
    with pytest.raises(VirtrootError, match=r"the builder ended with 137") as raised:
        carried_out(runner, builder, shell("true"))
    assert raised.value.where == "engine"


_SCRIPT_FAILED = """== packages
Setting up one (1) ...
== packages again
Setting up web (1) ...
\x1b[31mweb: no user www\x1b[0m
dpkg: error processing package web (--configure):
 installed web package post-installation script subprocess returned error exit status 3
"""


def test_the_reason_is_told_though_the_package_manager_went_on(
    runner: StageRunner, builder: Any, tmp_path: Path
) -> None:
    after = "".join(
        f"(Reading database ... \r(Reading database ... {number}%\rSetting up other{number} (1) ...\n= 0.001 s\n"
        for number in range(60)
    )
    script = f"cat >&2 << 'LOG'\n{_SCRIPT_FAILED}{after}E: Sub-process dpkg returned an error code (1)\nLOG\nexit 100"
    with pytest.raises(VirtrootError) as failed:
        carried_out(runner, builder, shell(script))
    lines = failed.value.detail.splitlines()
    assert lines[:3] == [
        "Setting up web (1) ...",
        "web: no user www",
        "dpkg: error processing package web (--configure):",
    ]
    assert lines[-1] == "E: Sub-process dpkg returned an error code (1)"
    assert "Setting up one (1) ..." not in lines
    assert len(lines) < 30


@pytest.mark.parametrize(
    "line",
    [
        "error: command (/bin/sh -c x) failed to execute correctly",
        "error: command failed to execute correctly",
        "call to execv failed (No such file or directory)",
        "==> ERROR: file not found: `switch_root'",
        "run-parts: /etc/kernel/postinst.d/initramfs-tools exited with return code 1",
        "update-initramfs: failed for /boot/initrd.img-6 with 1.",
    ],
)
def test_what_failed_first_is_shown_with_what_came_before(line: str) -> None:
    shown = find_reason("\n".join(["== stage", "reason\r", line, *(f"later {number}" for number in range(100))]))
    assert shown[:2] == ["reason", line]
    assert "[...]" in shown
    assert len(shown) == 24


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("E: Unable to locate package a\n\x1b[1mE: Unable to fetch b\x1b[0m\n= 0.1 s\nmore\n", "E: Unable to fetch b"),
        ("error: target not found: a\n", "error: target not found: a"),
        ("an error: of something\n", ""),
    ],
)
def test_a_package_that_is_missing_is_told_with_the_reason(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "build.log").write_text(log)
    assert find_error(tmp_path / "build.log") == said


def pacman_says(*lines: str) -> str:
    return "\n".join(["(1/3) Arming ConditionNeedsUpdate...", "(2/3) Updating linux initcpios...", *lines])


@pytest.mark.parametrize(
    "line",
    [
        "error: command failed to execute correctly",
        "call to execv failed (No such file or directory)",
        "==> WARNING: errors were encountered during the build. The image may not be complete.",
    ],
)
def test_a_hook_that_makes_the_initramfs_and_fails_fails_the_stage(
    runner: StageRunner, builder: Any, line: str
) -> None:
    said = pacman_says("==> ERROR: file not found: `switch_root'", line, "(3/3) Reloading...")
    with pytest.raises(VirtrootError) as failed:
        carried_out(runner, builder, shell('printf "%s\\n" "$1" >&2', said))
    assert "stage packages: hook 'Updating linux initcpios' failed and pacman continued" in failed.value.what
    assert "==> ERROR: file not found: `switch_root'" in failed.value.detail
    assert failed.value.where == "build"


@pytest.mark.parametrize(
    "said",
    [
        pacman_says(
            "==> WARNING: Possibly missing firmware for module: 'x'", "==> Initcpio image generation successful"
        ),
        "(1/1) Creating temporary files...\nerror: command failed to execute correctly",
        "echo 'error: command failed to execute correctly'",
    ],
)
def test_other_hooks_and_warnings_do_not_fail_it(runner: StageRunner, builder: Any, said: str) -> None:
    carried_out(runner, builder, shell('printf "%s\\n" "$1" >&2', said))


def test_what_a_recipe_s_own_commands_do_with_a_hook_is_a_warning(
    runner: StageRunner, builder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = pacman_says("error: command failed to execute correctly")
    with runner.log_stage("overlay"):
        runner.run(Stage("overlay", (shell('printf "%s\\n" "$1" >&2', said),), foreign=True), builder)
    assert "hook 'Updating linux initcpios' failed" in capsys.readouterr().err
    # Of a stage before nothing is said again.
    carried_out(runner, builder, shell("true"))
