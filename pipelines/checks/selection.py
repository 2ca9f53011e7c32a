"""Which integration and end-to-end tests a change can reach: by what they import, and by the tasks that they run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from pipelines.checks import import_graph, tracked
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT
from pipelines.text import trim

#: Where tests are that take long.
_SLOW = ("tests/integration", "tests/e2e")

#: What every one of them goes through.
_EVERYWHERE = ("tasks.py", "inv", "pyproject.toml", "requirements.lock", "containerfiles/", "tests/conftest.py")
_ALWAYS_LOADED = ("pipelines.cli.__main__", "pipelines.cli.program")

#: What none of them reads; the unit tests see to it.
_NOWHERE = ("CHANGELOG.md", "CONTRIBUTING.md", "DESIGN.md", "LICENSE", "README.md", ".ci/", ".editorconfig",
            ".gitignore", ".pre-commit-config.yaml", ".shellcheckrc", "benchmarks/", "tests/unit/", "tests/golden/",
            "tests/durations.json", "tests/durations.py")  # fmt: skip

#: Data that is read by tests which do not import it.
_READ_BY = {
    "docs/": ("tests/e2e/test_book.py", "tests/integration/test_site.py"),
    "mkdocs.yml": ("tests/integration/test_site.py",),
    "requirements-book.lock": ("tests/integration/test_site.py",),
}

#: Fixtures of tests/conftest.py that run a task.
_FIXTURES = {"trixie": "build", "built_now": "build", "quick": "build", "bookworm": "build"}

#: The suite that this task runs, in a process of its own.
_SUITE = {"verify": "tests.acceptance."}


def changed_files(base: str) -> list[str]:
    """Return the files that differ from ``base``, those that git does not know yet included.

    Without a ``base`` it is where this branch left the main one. Raises `VirtrootError` where git cannot say.
    """
    commit = tracked.run_git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") if base else _fork()
    if not commit:
        raise VirtrootError(
            f"no commit {base}" if base else "no branch to compare with", "name one: --changed --base COMMIT"
        )
    differing = tracked.run_git("diff", "--name-only", "-z", "--no-renames", trim(commit), "--")
    untracked = tracked.run_git("ls-files", "--others", "--exclude-standard", "-z")
    if differing is None or untracked is None:
        raise VirtrootError("git does not say what changed", "see git status")
    return sorted({path for path in (differing + untracked).split("\0") if path})


def choose(changed: Iterable[str]) -> list[str]:
    """Return the test files, of those that take long, that what ``changed`` can reach."""
    graph = import_graph.graph("pipelines", "tests")
    tasks = _tasks()
    files = sorted(path for directory in _SLOW for path in (CHECKOUT / directory).glob("test_*.py"))
    everything = [str(path.relative_to(CHECKOUT)) for path in files]
    touched, chosen = set[str](), set[str]()
    for path in changed:
        if path.startswith(_EVERYWHERE):
            return everything
        if path in everything:
            chosen.add(path)
            continue
        reading = [tests for prefix, tests in _READ_BY.items() if path.startswith(prefix)]
        if reading or path.startswith(_NOWHERE):
            chosen |= {test for tests in reading for test in tests}
            continue
        modules = set(_modules(path, graph))
        if not modules:
            # Nothing is known of it.
            return everything
        touched |= modules
    for file, shown in zip(files, everything, strict=True):
        if touched & _reached(file, graph, tasks):
            chosen.add(shown)
    return sorted(chosen)


def _modules(path: str, graph: Iterable[str]) -> Iterator[str]:
    """Yield the module that a file is; for data, and what is gone, those of its package and below it."""
    whole = CHECKOUT / path
    if whole.suffix == ".py" and whole.exists() and import_graph.name(whole) in graph:
        yield import_graph.name(whole)
        return
    package = ""
    for parent in PurePosixPath(path).parents:
        if (CHECKOUT / parent / "__init__.py").exists():
            package = ".".join(parent.parts)
            break
    yield from (module for module in graph if package and f"{module}.".startswith(f"{package}."))


def _reached(path: Path, graph: dict[str, set[str]], tasks: dict[str, set[str]]) -> set[str]:
    """Return the modules that a test file imports, or that run in the tasks that it names."""
    words = _words(path)
    named = {task for task in tasks if task in words} | {task for name, task in _FIXTURES.items() if name in words}
    start = {import_graph.name(path), *_ALWAYS_LOADED, *(module for task in named for module in tasks[task])}
    # What conftest runs is counted by its fixtures, and nobody imports what else it needs.
    reached = import_graph.closure(graph, start)
    for task, prefix in _SUITE.items():
        if f"pipelines.{task}" in reached:
            reached |= {module for module in graph if module.startswith(prefix)}
    return reached


@cache
def _words(path: Path) -> set[str]:
    """Return the strings and names in a file."""
    words = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.arg):
            words.add(node.arg)
    return words


@cache
def _tasks() -> dict[str, set[str]]:
    """Return the module of each task, as the table in tasks.py has it."""
    tree = ast.parse((CHECKOUT / "tasks.py").read_text(encoding="utf-8"))
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and [each.id for each in node.targets if isinstance(each, ast.Name)] == ["TASKS"]
    ]
    return {name: {module} for table in tables for name, module in ast.literal_eval(table).items()}


def _fork() -> str | None:
    """Return the commit where this branch left the main one, of origin's where there is that."""
    for branch in ("origin/HEAD", "origin/main", "main"):
        commit = tracked.run_git("merge-base", "HEAD", branch)
        if commit:
            return commit
    return None
