"""What people type: how it is read, what it is answered with, and what is offered for it."""

from __future__ import annotations

import errno
import re
import signal
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from invoke.context import Context
from invoke.tasks import Task, task

import pipelines
import tasks
from pipelines import complete
from pipelines.builder import inputs
from pipelines.cli import exit_status
from pipelines.cli.command_line import Line
from pipelines.cli.program import Program
from pipelines.cli.registry import Registry
from pipelines.engine import engine as engines
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.libvirt import connect
from pipelines.settings import CHECKOUT, list_defaults

TASKS = sorted(tasks.program.contexts)
TAKING_A_GUEST = [name for name, context in tasks.program.contexts.items() if "name" in context.args]


def done_by(*words: str) -> dict[str, object]:
    """Read a command line with tasks of the shapes there are, run it, and return what reached them."""
    called: dict[str, object] = {}

    @task
    def start(c: Context, name: str) -> None:
        """Boot."""
        called["start"] = (name, c.config.virtroot.connect)

    @task(iterable=["share"])
    def install(c: Context, name, distro="", vcpus=0, hostname="", force=False, share=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Install."""
        called["install"] = (name, distro, vcpus, hostname, force, share)

    @task(positional=["name"])
    def verify(c: Context, name="", distro="", boot=True):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Verify."""
        called["verify"] = (name, distro, boot)

    @task(name="exec")
    def execute(c: Context, name: str, command: Sequence[str] = ()) -> None:
        """Run."""
        called["exec"] = (name, " ".join(command))

    @task(positional=["artifact"])
    def pin(c: Context, artifact):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Keep."""
        called["pin"] = artifact

    known = {"start": start, "install": install, "verify": verify, "exec": execute, "pin": pin}
    Program(Registry(cast("dict[str, str | Task[Any]]", known)), {}).run(["inv", *words])
    return called


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("start web", {"start": ("web", "auto")}),
        ("start --name web", {"start": ("web", "auto")}),
        ("start --name=web", {"start": ("web", "auto")}),
        ("start -n web", {"start": ("web", "auto")}),
        ("start --connect embedded web", {"start": ("web", "embedded")}),
        ("start web -cembedded", {"start": ("web", "embedded")}),
        ("install web --distro debian", {"install": ("web", "debian", 0, "", False, [])}),
        ("install --force web", {"install": ("web", "", 0, "", True, [])}),
        ("install -fd debian -v 2 web", {"install": ("web", "debian", 2, "", True, [])}),
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
    assert done_by(*line.split()) == called


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
        ("install -f=no web", "-f takes no value"),
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
def test_what_cannot_be_read_is_refused(line: str, what: str) -> None:
    with pytest.raises(VirtrootError, match=what) as refused:
        done_by(*line.split())
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


def test_no_name_is_empty() -> None:
    with pytest.raises(VirtrootError, match="--name is empty"):
        done_by("start", "")


@pytest.mark.parametrize(("name", "option"), takes_values())
def test_a_number_counts_something(name: str, option: str) -> None:
    argument = tasks.program.contexts[name].args[option]
    if argument.kind is int:
        for value in ("0", "-1"):
            with pytest.raises(VirtrootError, match="less than 1"):
                read(name, f"--{option}={value}")


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


def test_help_is_for_the_task_that_is_being_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for line, name in {
        "start --name web --help": "start",
        "install web --distro debian --vcpus 2 -h": "install",
        "install web --vcpus many --nope --help": "install",
        "start verify --help": "start",
        "start web verify --help": "verify",
        "--help=verify": "verify",
        "install -fh": "install",
    }.items():
        assert done_by(*line.split()) == {}
        assert capsys.readouterr().out.startswith(f"Usage: ./inv {name} "), line


def test_h_is_help_and_no_option_of_a_task() -> None:
    assert not [name for name, context in tasks.program.contexts.items() if "-h" in context.flags]


@pytest.mark.parametrize("name", TAKING_A_GUEST)
def test_a_guests_name_needs_no_option(name: str) -> None:
    further = {"share": "share", "unshare": "tag", "import": "source", "clone": "to"}
    further |= {"snapshot": "snapshot", "restore": "snapshot"}
    more = [further[name]] if name in further else []
    assert [argument.names[0] for argument in tasks.program.contexts[name].positional_args] == ["name", *more]


def test_help_alone_shows_options_and_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: ./inv ")
    assert all(f"\n  {name} " in shown for name in TASKS)


def test_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipelines.__version__"}
    tasks.program.run(["inv", "--version"])
    assert capsys.readouterr().out == f"virtroot {pipelines.__version__}\n"


@pytest.mark.parametrize("value", ["soon", ""])
def test_settings_come_through_as_text(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoke would make a number of it, or a traceback; what is wrong is said where settings are validated."""
    monkeypatch.setenv("INVOKE_VIRTROOT_TIMEOUT", value)
    with pytest.raises(VirtrootError, match=re.escape(f"invalid setting virtroot.timeout: {value!r}")):
        tasks.program.run(["inv", "build", "--distro", "debian"])


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (lambda: None, 0, ""),
        (raising(VirtrootError("no guest web", "./inv list")), 2, "error: no guest web\ntry: ./inv list\n"),
        (raising(CheckFailed("1 of 2", "read")), 1, "error: 1 of 2\ntry: read\n"),
        (raising(SystemExit(7)), 7, ""),
        (raising(SystemExit()), 0, ""),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (
            raising(PermissionError(errno.EACCES, "Permission denied", "output/x")),
            2,
            "error: Permission denied: output/x\ntry: run it as root, or as the owner of the path\n",
        ),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            2,
            "error: No space left on device\ntry: free space on that disk, then run it again\n",
        ),
        (
            raising(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")),
            2,
            "error: Invalid cross-device link: a and b\ntry: run ./inv --debug TASK for a traceback\n",
        ),
    ],
)
def test_endings(
    body: Callable[[], None],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert exit_status.run_task(body) == status
    assert capsys.readouterr().err == said


def test_a_pipe_that_breaks_elsewhere_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status.run_task(raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 2
    assert "error: Broken pipe\n" in capsys.readouterr().err


def test_a_bug_is_shown_whole_and_is_no_answer_of_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status.run_task(raising(ZeroDivisionError("division"))) == 70
    assert "ZeroDivisionError: division" in capsys.readouterr().err


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Complete a line with guests "web" and "work", one recipe, and a finder that is broken."""

    def complete(*words: str) -> list[str]:
        def broken(_: Context) -> list[str]:
            raise RuntimeError("no libvirt, no engine")

        names = {
            "name": lambda c: ["work", "web"],
            "distro": lambda c: ["debian"],
            "install.name": lambda c: ["debian"],
        }
        program = Program(tasks.registry, {**names, "connect": broken})
        # A task gives its help away once, to whoever asks first.
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
        (["start", "web", "--"], ["--connect"]),
        (["start", "web", ""], ["--connect"]),
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
def test_completion(offered: Callable[..., list[str]], words: list[str], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_a_name_that_is_no_line_of_its_own_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def names(_: Context) -> list[str]:
        return ["web", "we\nweb2", "we\x1b[2J", "we\u2028x", "we b"]

    program = Program(tasks.registry, {"name": names})
    program.contexts = tasks.program.contexts
    monkeypatch.setattr(program, "_configure", lambda _: None)
    monkeypatch.setattr(program, "config", program.config_class(), raising=False)
    program.run(["inv", "--complete", "--", "start", "we"])
    assert capsys.readouterr().out.splitlines() == ["we b", "web"]


def test_only_files_that_a_recipe_may_be_called_after_are_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fine", "zz$(id)", "zz;id", "-rf", "a b", "x\ny", "..", "index.html"):
        (tmp_path / f"{name}.yaml").write_text("distro: debian\n")
    monkeypatch.setattr(inputs, "_RECIPES", tmp_path)
    assert inputs.list_names() == ["fine"]
    # A night says of the others why it does not build them.
    assert len(inputs.list_nightly()) == 8


def test_every_task_is_offered(offered: Callable[..., list[str]]) -> None:
    assert sorted(offered("")) == TASKS
    assert sorted(offered()) == TASKS


def test_finding_guests_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(container=lambda name: None, refuse_foreign=lambda *_: None)
    monkeypatch.setattr(connect, "is_host_answering", lambda: False)
    monkeypatch.setattr(connect, "connect", lambda *_: pytest.fail("that starts the hypervisor"))
    monkeypatch.setattr(engines, "is_available", lambda: True)
    monkeypatch.setattr(engines, "connect", lambda: engine)
    assert complete.list_guests(SimpleNamespace(config=SimpleNamespace(virtroot=list_defaults()))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_asks_the_checkout_wherever_it_is_typed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "--print-completion-script", shell])
    script = capsys.readouterr().out
    assert f"{CHECKOUT / 'inv'} --complete -- " in script
    assert "@INV@" not in script
