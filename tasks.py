"""The tasks: their names, their order, and the module of each."""

from __future__ import annotations

from invoke.collection import Collection

from pipelines import lazy
from pipelines.cli.overview import DAILY
from pipelines.cli.program import Program
from pipelines.cli.registry import Registry
from pipelines.cli.task import Context, task
from pipelines.complete import NAMES
from pipelines.log import result
from pipelines.project import PROGRAM, is_checkout

with lazy.imports():
    from pipelines.book import reference
    from pipelines.cli import hosted
    from pipelines.errors import VirtrootError
    from pipelines.merge import policy_page

#: The tasks and their modules.
TASKS = {
    "build": "pipelines.build",
    "plan": "pipelines.build",
    "builds": "pipelines.builds",
    "import": "pipelines.import_system",
    "init": "pipelines.init",
    "install": "pipelines.install",
    "clone": "pipelines.clone",
    "verify": "pipelines.verify",
    "start": "pipelines.start",
    "stop": "pipelines.start",
    "restart": "pipelines.start",
    "share": "pipelines.share",
    "unshare": "pipelines.share",
    "upgrade": "pipelines.upgrade",
    "rollback": "pipelines.rollback",
    "snapshot": "pipelines.snapshot",
    "restore": "pipelines.snapshot",
    "snapshots": "pipelines.snapshot",
    "refresh": "pipelines.exec",
    "wait": "pipelines.start",
    "console": "pipelines.exec",
    "exec": "pipelines.exec",
    "run": "pipelines.run",
    "ssh": "pipelines.ssh",
    "ssh-config": "pipelines.ssh",
    "ssh-proxy": "pipelines.ssh",
    "cp": "pipelines.ssh",
    "list": "pipelines.list",
    "info": "pipelines.list",
    "logs": "pipelines.logs",
    "remove": "pipelines.remove",
    "nightly": "pipelines.nightly",
    "nightly-timer": "pipelines.nightly_timer",
    "status": "pipelines.status",
    "promote": "pipelines.promote",
    "demote": "pipelines.promote",
    "pin": "pipelines.promote",
    "prune": "pipelines.prune",
    "clean": "pipelines.prune",
    "diff": "pipelines.diff",
    "doctor": "pipelines.doctor",
    "setup": "pipelines.setup",
    "demo": "pipelines.demo",
    "test": "pipelines.test",
    "package": "pipelines.package",
    "release": "pipelines.release",
    "schema": "pipelines.build",
    "help": "pipelines.help",
    "reference": "tasks",
    "book": "pipelines.help",
}


@task(name="reference", help={"page": "reference, or survives: what survives an upgrade, a clone and a snapshot"})
def reference_task(c: Context, page: str = "reference") -> None:
    """Print a page of the book that is written from the code: of tasks, recipes, settings and the manifest.

    ./inv reference > docs/reference.md
    ./inv reference --page survives > docs/survives.md
    """
    if page == "survives":
        result(policy_page.text())
        return
    if page != "reference":
        raise VirtrootError(f"{page!r} is not written from the code", "give --page reference or --page survives")
    docstrings = {name: str(registry[name].__doc__) for name in registry}
    result(reference.make_page(program.contexts, docstrings))


#: Tasks that need no project directory, and tasks for development, which an installed virtroot does not have.
_WITHOUT_PROJECT, _DEVELOPMENT = ("init", "help", "schema"), ("test", "package", "release", "reference", "book")

#: Other names of tasks.
_ALIASES = {"delete": "remove", "inspect": "info", "ls": "list", "ps": "list", "rm": "remove", "shell": "ssh"}

_OFFERED = {name: module for name, module in TASKS.items() if is_checkout(PROGRAM) or name not in _DEVELOPMENT}
registry = Registry(_OFFERED, _ALIASES)
program = Program(registry, NAMES, DAILY, _WITHOUT_PROJECT)


def __getattr__(name: str) -> Collection:
    """Return the collection that plain invoke looks for; it is made then, since that imports every task."""
    if name in ("collection", "namespace"):
        return hosted.make_collection(registry)
    raise AttributeError(name)
