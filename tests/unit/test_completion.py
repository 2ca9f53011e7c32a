"""Completion of command lines in a shell."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from invoke.config import Config
from invoke.context import Context

import tasks
from pipelines import complete
from pipelines.cli.program import Program
from pipelines.engine import engine as engines
from pipelines.libvirt import connect
from pipelines.settings import CHECKOUT, list_defaults
from tests.support.command_lines import TASKS


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Complete a line with the guests "web" and "work", one recipe, and a function that fails."""

    def complete(*words: str) -> list[str]:
        def broken(_: Context) -> list[str]:
            raise RuntimeError("no libvirt, no engine")

        names = {
            "name": lambda c: ["work", "web"],
            "distro": lambda c: ["debian"],
            "install.name": lambda c: ["debian"],
        }
        program = Program(tasks.registry, {**names, "connect": broken})
        # A task hands over the help of its arguments once only.
        program.contexts = tasks.program.contexts
        program.run(["inv", "--complete", "--", *words])
        return capsys.readouterr().out.split()

    return complete


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["star"], ["start"]),
        (["--vers"], ["--version"]),
        (["start", ""], ["web", "work"]),
        (["start", "we"], ["web"]),
        (["start", "--name", "we"], ["web"]),
        (["start", "--name=we"], ["--name=web"]),
        (["stop", "--force", "wo"], ["work"]),
        (["start", "--connect", ""], []),
        (["start", "web", "--"], ["--all", "--connect", "--name"]),
        (["start", "web", ""], ["work"]),
        (["verify", "w"], ["web", "work"]),
        (["install", ""], ["debian"]),
        (["install", "web", "--distro", "d"], ["debian"]),
        (["build", "--distro", ""], ["debian"]),
        (["build", "--recipe", ""], [":files"]),
        (["build", "--recipe=recipes/"], [":files"]),
        (["exec", "web", "--", "un"], []),
        (["--nope", "frob", "start", "we"], ["web"]),
    ],
)
def test_words_are_completed(offered: Callable[..., list[str]], words: list[str], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_a_name_with_control_characters_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def names(_: Context) -> list[str]:
        return ["web", "we\nweb2", "we\x1b[2J", "we\u2028x", "we b"]

    program = Program(tasks.registry, {"name": names})
    program.contexts = tasks.program.contexts
    monkeypatch.setattr(program, "_configure", lambda *_: None)
    monkeypatch.setattr(program, "config", program.config_class(), raising=False)
    program.run(["inv", "--complete", "--", "start", "we"])
    assert capsys.readouterr().out.splitlines() == ["we b", "web"]


def test_every_task_is_offered(offered: Callable[..., list[str]]) -> None:
    assert sorted(offered("")) == TASKS
    assert sorted(offered()) == TASKS


def test_listing_guests_starts_no_hypervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(container=lambda name: None, refuse_foreign=lambda *_: None)
    monkeypatch.setattr(connect, "is_host_answering", lambda: False)
    monkeypatch.setattr(connect, "connect", lambda *_: pytest.fail("that starts the hypervisor"))
    monkeypatch.setattr(engines, "is_available", lambda: True)
    monkeypatch.setattr(engines, "connect", lambda: engine)
    assert complete.list_guests(Context(Config(overrides={"virtroot": list_defaults()}))) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_runs_inv_of_this_checkout(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "--print-completion-script", shell])
    script = capsys.readouterr().out
    assert f"{CHECKOUT / 'inv'} --complete -- " in script
    assert "@INV@" not in script
