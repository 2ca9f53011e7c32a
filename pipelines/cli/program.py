"""The program behind ./inv: invoke's, with its own parser and its own exit status."""

from __future__ import annotations

import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from invoke import program
from invoke.collection import Collection
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseResult
from invoke.util import enable_logging

from pipelines import __version__, invocation, lazy
from pipelines import project as projects
from pipelines.cli import completion
from pipelines.cli.command_line import Line, UnknownWord, format_option
from pipelines.cli.registry import COMMAND, Contexts, Registry
from pipelines.cli.task import PROJECT_KEY
from pipelines.errors import VirtrootError
from pipelines.log import result, set_volume

with lazy.imports():
    from pipelines import settings

_HELP = ("-h", "--help")

#: The width of help texts, in characters: that of a terminal by default.
_COLUMNS = 80


class Program(program.Program):
    """Runs the tasks of a registry.

    ``names`` lists the values for shell completion, see `completion.Names`. ``daily`` has the commands, and what they
    do, that ./inv without arguments prints. ``without_project`` names the tasks that need no project directory.
    """

    def __init__(
        self,
        tasks: Registry,
        names: completion.Names,
        daily: Sequence[tuple[str, str]] = (),
        without_project: Container[str] = (),
    ) -> None:
        super().__init__(version=__version__, namespace=Collection(), name="virtroot", binary=invocation.get_name())
        self.registry = tasks
        self.contexts = Contexts(tasks)
        self._names = names
        self._daily = daily
        self._without_project = without_project

    def core_args(self) -> list[Argument]:
        """Return the options in front of the tasks. invoke's others affect ``c.run``, which no task here uses."""
        return [
            Argument(names=("help", "h"), kind=bool, default=False, help="Show this help, or that of a task."),
            Argument(names=("list", "l"), kind=bool, default=False, help="List the tasks."),
            Argument(names=("version", "V"), kind=bool, default=False, help="Show the version."),
            Argument(names=("project", "C"), help="Use this project directory."),
            Argument(names=("config", "f"), help="Read settings from this file, too."),
            Argument(names=("connect", "c"), help="Which libvirt: auto, embedded or qemu:///system."),
            Argument(names=("debug", "d"), kind=bool, default=False, help="Show debug messages and tracebacks."),
            Argument(names=("quiet", "q"), kind=bool, default=False, help="Print no progress, as for cron."),
            Argument(names=("verbose", "v"), kind=bool, default=False, help="Print each command that runs."),
            Argument(names=("print-completion-script",), help="Print the completion script for bash, zsh or fish."),
        ]

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:  # noqa: A002 - invoke's name
        """Run the command line ``argv``; `exit_status.run_task` handles what it raises."""
        self.argv = sys.argv if argv is None else argv
        if self.argv[1:2] == ["--complete"]:
            return self._complete(self.argv[3:])
        words, after = self._split_command(self.argv[1:])
        asked = next((place for place, word in enumerate(words) if word.partition("=")[0] in _HELP), None)
        if asked is not None:
            return self._show_help(words, asked)
        line = Line(self.initial_context, self.contexts)
        for word in words:
            line.take(word)
        options = {name: argument.value for name, argument in line.core.args.items()}
        if options["debug"]:
            enable_logging()
        if options["quiet"] and options["verbose"]:
            raise VirtrootError("--quiet and --verbose exclude each other", "use only one of them")
        set_volume(quiet=options["quiet"], verbose=options["verbose"])
        if options["help"]:
            return self._show(line.context)
        if options["version"]:
            return result(f"{self.name} {self.version}")
        if options["print-completion-script"]:
            return result(completion.get_script(options["print-completion-script"]))
        if options["list"]:
            return result(_capture_output(self._list))
        line.finish()
        if not line.called:
            return self._show(line.core) if words else result(self._format_overview())
        return self._execute(line, after)

    def task_list_opener(self, extra: str = "") -> str:
        """Return the heading of the list of tasks; invoke calls this."""
        return "Tasks"

    def print_help(self) -> None:
        """Print the usage, the options in front of the tasks, and the tasks."""
        print(f"Usage: {self.binary} [--options] TASK [NAME] [--options] [-- COMMAND]\n\nOptions:\n")  # noqa: T201
        self.print_columns(self.initial_context.help_tuples())
        self._list()

    def print_task_help(self, name: str) -> None:
        """Print the usage, the docstring and the options of a task."""
        context = self.contexts[name]
        takes = [_format_positional(each) for each in context.positional_args]
        command = ["[--]", "COMMAND"] if self.contexts.takes_command(name) else []
        usage = " ".join(["Usage:", self.binary, name, *takes, "[--options]", *command])
        described = invocation.replace_name(str(inspect.getdoc(self.registry[name])))
        what, _, examples = described.partition("\n\n")
        print(f"{usage}\n\n{textwrap.fill(what, _COLUMNS)}\n")  # noqa: T201
        for example in examples.split("\n"):
            print(f"  {example}")  # noqa: T201
        if examples:
            print()  # noqa: T201
        if others := sorted(each for each, known in self.registry.aliases.items() if known == name):
            print(f"Other names: {', '.join(others)}\n")  # noqa: T201
        print("Options:\n")  # noqa: T201
        self.print_columns([*context.help_tuples(), *self._list_common_options()])

    def _list_common_options(self) -> list[tuple[str, str | None]]:
        argument = self.initial_context.args["connect"]
        return [(f"{format_option(argument)}=STRING", argument.help)]

    def _format_overview(self) -> str:
        """Return the text that ./inv without arguments prints: the most used commands."""
        width = max((len(typed) for typed, _ in self._daily), default=0)
        return "\n".join(
            [
                f"{self.name} {self.version}: Linux roots that boot as libvirt guests over virtiofs",
                "",
                *(f"  {self.binary} {typed:<{width}}  {does}" for typed, does in self._daily),
                "",
                f"all tasks: {self.binary} --list   one task: {self.binary} TASK --help   the book: {self.binary} help",
            ]
        )

    def _show_help(self, words: Sequence[str], asked: int) -> None:
        """Print the help of the task in front of ``--help`` or, as invoke does, of the task behind it."""
        line = Line(self.initial_context, self.contexts)
        before = ""
        for word in words[:asked]:
            try:
                line.take(word)
            except VirtrootError as error:
                # A wrong option must not prevent the help; the word after it may be its value.
                if isinstance(error, UnknownWord) and not before.startswith("-"):
                    raise
            before = word
        named = words[asked].partition("=")[2] or next(iter(words[asked + 1 :]), "")
        if not line.called and named and not named.startswith("-"):
            line.take(named)
        self._show(line.context)

    def _show(self, context: ParserContext) -> None:
        result(_capture_output(lambda: self.print_task_help(context.name) if context.name else self.print_help()))

    def _list(self) -> None:
        print(f"{self.task_list_opener()}:\n")  # noqa: T201
        self.print_columns(
            [(name, invocation.replace_name(self.registry.summary(name))) for name in sorted(self.registry)]
        )

    def _split_command(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split ``words`` into virtroot's command line and a command for a guest.

        The command follows the first ``--``, or begins with the first word that the task in front of it does not take.
        """
        line = Line(self.initial_context, self.contexts)
        for place, word in enumerate(words):
            if word == "--":
                return list(words[:place]), list(words[place + 1 :])
            if line.begins_command(word):
                return list(words[:place]), list(words[place:])
            completion.read_leniently(line, [word])
        return list(words), []

    def _complete(self, words: Sequence[str]) -> None:
        def names() -> Context:
            self._configure("", line.core.args["project"].value)
            return Context(self.config)

        line = Line(self.initial_context, self.contexts)
        result("\n".join(completion.find_candidates(line, words, self.contexts, self._names, names)))

    def _execute(self, line: Line, after: Sequence[str]) -> None:
        self.collection = self.registry.collection(*(str(context.name) for context in line.called))
        if any(context.name not in self._without_project for context in line.called):
            self._configure(line.core.args["config"].value, line.core.args["project"].value)
            if line.core.args["connect"].value:
                self.config.virtroot.connect = line.core.args["connect"].value
        else:
            self.create_config()
        self.core = ParseResult([line.core])
        for context in line.called:
            if COMMAND in inspect.signature(self.registry[str(context.name)].body).parameters:
                argument = Argument(name=COMMAND, kind=list)
                for word in after:
                    argument.set_value(word)
                context.add_arg(argument)
        self.tasks = ParseResult(line.called)
        try:
            self.execute()
        except Exit as ended:
            raise VirtrootError(ended.message or "the task ended early", "run it again") from ended

    def _configure(self, runtime: str | None, project: str | None) -> None:
        """Load the settings of the system, the user, the project, the file ``runtime`` and the environment.

        ``project`` is the project directory that the command line names, if any.
        """
        directory = projects.find(project or "")
        with _convert_settings_errors():
            self.create_config()
            self.config.set_project_location(directory)
            self.config.load_project(merge=False)
            add_settings(self.config, directory)
            given = runtime or os.environ.get("INVOKE_RUNTIME_CONFIG")
            if given:
                path = Path(given).expanduser()
                path.stat()  # invoke ignores a missing file, even if the user named it
                self.config.set_runtime_path(path)
                self.config.load_runtime(merge=False)
            self.config.load_collection({"virtroot": settings.list_defaults(directory)}, merge=False)
            self.config.merge()
            if not hasattr(self.config.virtroot, "keys"):
                raise TypeError(f"virtroot: not a mapping: {self.config.virtroot!r}")
            self.config.load_shell_env()


def add_settings(config: Config, directory: Path) -> None:
    """Add the project directory and the settings of its file to a configuration that has loaded its own files.

    They have the rank of ``invoke.yaml`` in that directory: the environment replaces them. Raises `VirtrootError` if
    both files have settings of virtroot.
    """
    config.load_overrides({PROJECT_KEY: str(directory)}, merge=False)
    found = projects.read_settings(directory)
    if found and "virtroot" in config._project:
        raise VirtrootError(
            f"{directory} has settings of virtroot in {projects.FILE} and in invoke's file",
            f"move them to {projects.FILE}",
        )
    if found:
        # invoke has no method to add the content of a file of another name.
        config._set(_project={**config._project, "virtroot": found}, _project_found=True)


@contextmanager
def _convert_settings_errors() -> Iterator[None]:
    """Turn errors of invoke and YAML about the settings into VirtrootError. OS errors pass: they name their file."""
    try:
        yield
    except (OSError, VirtrootError):
        raise
    except Exception as error:
        at_fault = [
            name for name, value in os.environ.items() if name.startswith("INVOKE_") and repr(value) in str(error)
        ]
        reason = " ".join(str(error).split())
        raise VirtrootError(
            f"cannot read the settings: {': '.join([*at_fault, reason])}",
            "fix the file or the environment; run ./inv help settings for the settings",
        ) from error


def _format_positional(argument: Argument) -> str:
    shown = argument.names[0].upper() + ("..." if argument.kind is list else "")
    return shown if argument.default is None or argument.kind is list else f"[{shown}]"


def _capture_output(printing: Callable[[], None]) -> str:
    """Return what ``printing`` prints, for `result`, which handles a reader that closes the pipe."""
    with redirect_stdout(io.StringIO()) as text:
        printing()
    return text.getvalue().rstrip("\n")
