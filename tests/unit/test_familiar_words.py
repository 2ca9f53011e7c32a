"""Words that users of docker, incus, lima and virsh type, and what they mean here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from pipelines.cli.command_line import HARMLESS
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest import several
from pipelines.settings import Settings
from tests.support.guests import make_guest

Parse = Callable[[str], list[tuple[str, dict[str, Any]]]]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Return what a command line calls: the tasks, and the options that differ from their defaults."""

    def parsed(line: str) -> list[tuple[str, dict[str, Any]]]:
        called = []

        def execute(program: Any) -> None:
            for context in program.tasks:
                given = {name: each.value for name, each in context.args.items() if each.value != each.default}
                called.append((context.name, {name: value for name, value in given.items() if value}))

        monkeypatch.setattr(type(tasks.program), "execute", execute)
        monkeypatch.setattr(type(tasks.program), "_configure", lambda *_: None)
        tasks.program.run(["inv", *line.split()])
        return called

    return parsed


@pytest.mark.parametrize(
    ("line", "name", "options"),
    [
        ("ls", "list", {}),
        ("ps --json", "list", {"json": True}),
        ("rm web -y", "remove", {"name": ["web"], "yes": True}),
        ("delete web", "remove", {"name": ["web"]}),
        ("shell web", "ssh", {"name": "web"}),
        ("inspect web", "info", {"name": "web"}),
        ("snapshot web", "snapshot", {"name": "web"}),
        ("snapshot web before", "snapshot", {"name": "web", "snapshot": "before"}),
        ("snapshot create web before", "snapshot", {"name": "web", "snapshot": "before"}),
        ("snapshot list web", "snapshots", {"name": "web"}),
        ("snapshot ls web --json", "snapshots", {"name": "web", "json": True}),
        ("snapshot restore web before --restart", "restore", {"name": "web", "snapshot": "before", "restart": True}),
        ("snapshot delete web before -y", "snapshots", {"name": "web", "remove": "before", "yes": True}),
        ("snapshot rm web before", "snapshots", {"name": "web", "remove": "before"}),
        ("snapshot --name list", "snapshot", {"name": "list"}),
        ("exec web uname -r", "exec", {"name": "web", "command": ["uname", "-r"]}),
        ("exec web -- uname -r", "exec", {"name": "web", "command": ["uname", "-r"]}),
        ("exec web ls --help", "exec", {"name": "web", "command": ["ls", "--help"]}),
        ("exec web grep -- foo", "exec", {"name": "web", "command": ["grep", "--", "foo"]}),
        ("exec web list", "exec", {"name": "web", "command": ["list"]}),
        ("exec list list", "exec", {"name": "list", "command": ["list"]}),
        ("ssh web -u www uptime", "ssh", {"name": "web", "user": "www", "command": ["uptime"]}),
        ("shell web uptime", "ssh", {"name": "web", "command": ["uptime"]}),
        ("run debian -- uname -r", "run", {"distro": "debian", "command": ["uname", "-r"]}),
        ("run debian uname -r", "run", {"distro": "debian", "command": ["uname", "-r"]}),
        ("run -- uname -r", "run", {"command": ["uname", "-r"]}),
        ("run -d debian -- true", "run", {"distro": "debian", "command": ["true"]}),
        ("stop web db", "stop", {"name": ["web", "db"]}),
        ("stop web --force db", "stop", {"name": ["web", "db"], "force": True}),
        ("stop --all -F", "stop", {"all": True, "force": True}),
        ("stop list", "stop", {"name": ["list"]}),
        ("verify web db --boot", "verify", {"name": ["web", "db"], "boot": True}),
        ("verify -d debian", "verify", {"distro": "debian"}),
        ("help nightly", "help", {"topic": "nightly"}),
        ("init demo", "init", {"directory": "demo"}),
        ("nightly web mail", "nightly", {"recipe": ["web", "mail"]}),
    ],
)
def test_what_users_type_is_understood(parse: Parse, line: str, name: str, options: dict[str, Any]) -> None:
    assert parse(line) == [(name, options)]


def test_a_task_follows_a_list_of_names(parse: Parse) -> None:
    called = parse("stop web db start web --name list ls")
    assert called == [("stop", {"name": ["web", "db"]}), ("start", {"name": ["web", "list"]}), ("list", {})]
    assert parse("nightly status") == [("nightly", {}), ("status", {})]


@pytest.mark.parametrize("task", ["start", "stop", "restart", "wait", "remove"])
def test_a_task_on_guests_needs_a_name(parse: Parse, task: str) -> None:
    with pytest.raises(VirtrootError, match=f"{task} needs a name"):
        parse(task)


@pytest.mark.parametrize("word", ["demot", "promot", "prun", "upgrad", "nightl", "clon", "removee"])
def test_a_wrong_word_leads_to_no_task_that_changes_something(parse: Parse, word: str) -> None:
    with pytest.raises(VirtrootError, match="unknown task") as refused:
        parse(word)
    assert refused.value.hint == "run ./inv --list for the tasks"


def test_a_wrong_word_may_lead_to_a_task_that_only_shows(parse: Parse) -> None:
    with pytest.raises(VirtrootError) as refused:
        parse("statsu")
    assert refused.value.hint == "run ./inv status, or ./inv --list"
    assert {*HARMLESS} <= {*tasks.registry}


def test_the_other_names_are_in_the_help_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "rm", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: ./inv remove NAME... ")
    assert "Other names: delete, rm\n" in shown
    tasks.program.run(["inv", "--list"])
    assert "  rm " not in capsys.readouterr().out


def test_a_letter_means_the_same_in_every_task() -> None:
    meanings: dict[str, set[str]] = {}
    for context in tasks.program.contexts.values():
        for argument in context.args.values():
            for letter in argument.names[1:]:
                meanings.setdefault(letter, set()).add(argument.names[0])
    assert {letter: found for letter, found in meanings.items() if len(found) > 1} == {}
    assert meanings["y"] == {"yes"}
    assert "h" not in meanings


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(several, "warn", lines.append)
    monkeypatch.setattr(several, "say", lines.append)
    return lines


@pytest.mark.parametrize("at_once", [False, True])
def test_one_that_fails_stops_no_other(said: list[str], at_once: bool) -> None:
    done: list[str] = []

    def do(name: str) -> None:
        if name in "bd":
            raise VirtrootError(f"{name} is off", "start it")
        done.append(name)

    with pytest.raises(VirtrootError, match=r"failed for 2 of 4 guests: b, d") as refused:
        several.for_each(["a", "b", "c", "d"], do, at_once=at_once)
    assert sorted(done) == ["a", "c"]
    assert sorted(said) == ["b is off; start it", "d is off; start it"]
    assert refused.value.exit_code == 2


def test_checks_that_fail_end_as_a_check_does(said: list[str]) -> None:
    def fail(name: str) -> None:
        raise CheckFailed(f"{name}: 1 check failed", "see the report")

    with pytest.raises(CheckFailed) as refused:
        several.for_each(["a", "b"], fail)
    assert refused.value.exit_code == 1
    assert len(said) == 2


def test_the_error_of_one_guest_is_its_own(said: list[str]) -> None:
    def fail(name: str) -> None:
        raise VirtrootError("no guest a", "use an existing guest: b")

    with pytest.raises(VirtrootError, match="no guest a"):
        several.for_each(["a"], fail)
    several.for_each([], fail)
    assert said == ["no guest to work on"]


def test_all_are_those_that_are_not_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"web": "running", "db": "shut off", "run-debian": "running"}
    hypervisor = SimpleNamespace(state=states.__getitem__)
    found = [
        make_guest(hypervisor, name, uuid=name, transient="run" if name.startswith("run") else "")  # type: ignore[arg-type]
        for name in states
    ]
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda _: found)
    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda _: None)
    ctx = CommandContext(Settings())
    assert several.list_names([], ctx, all_of_them=True) == ["web", "db"]
    assert several.list_names([], ctx, all_of_them=True, running=True) == ["web"]
    assert several.list_names([], ctx, all_of_them=True, running=False) == ["db"]
    assert several.list_names(["b", "a", "b"], ctx, all_of_them=False) == ["b", "a"]
    with pytest.raises(VirtrootError, match="no guest is named"):
        several.list_names([], ctx, all_of_them=False)
    with pytest.raises(VirtrootError, match="exclude each other"):
        several.list_names(["web"], ctx, all_of_them=True)
