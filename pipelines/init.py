"""Make a project directory: settings, recipes, a directory for checks, and a tasks.py for plain invoke."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import textwrap
from pathlib import Path

from pipelines import invocation
from pipelines import project as projects
from pipelines.cli.task import Context, task
from pipelines.errors import VirtrootError
from pipelines.log import say
from pipelines.project import PROGRAM, SYSTEM
from pipelines.settings import SYSTEM_OUTPUT, describe_settings, list_defaults
from pipelines.target import durable

#: The width of comments, in characters.
_COLUMNS = 100

_HEAD = """\
# The settings of this project directory. A line without the number sign in front replaces a default.
# The variables INVOKE_VIRTROOT_NAME of the environment replace what stands here.
"""

_TASKS = """\
from virtroot import collection  # the tasks of virtroot, for plain invoke; add your own with namespace.add_task
namespace = collection
"""

_RECIPES = ("debian.yaml", "arch.yaml", "schema.json")


def init(directory: Path) -> list[Path]:
    """Make ``directory`` a project directory that this user trusts; return the files that were written.

    What exists stays as it is. The file with the settings is written last, so that a killed task leaves no directory
    that looks complete. Raises `VirtrootError` for a path that is no directory.
    """
    if directory.exists() and not directory.is_dir():
        raise VirtrootError(f"{directory}: not a directory", "use another name")
    if projects.is_checkout(directory):
        projects.record_known(directory)
        return []
    projects.check_recordable(directory)
    files = {
        Path("tests", ".gitkeep"): b"",
        Path(".gitignore"): b"/output/\n/invoke.yaml\n",
        Path("tasks.py"): _TASKS.encode(),
        Path(projects.FILE): make_settings_file(directory).encode(),
    }
    if projects.find_file(directory):
        # It may have the other name.
        del files[Path(projects.FILE)]
    written = _write_recipes(directory / "recipes")
    written += [directory / name for name, content in files.items() if _write_new(directory / name, content)]
    projects.find(str(directory))
    projects.record_known(directory)
    return written


def make_settings_file(directory: Path) -> str:
    """Return the content of the file with the settings: each setting as a comment, with its default."""
    parts = [_HEAD, f"format: {projects.FORMAT}\n"]
    defaults = list_defaults(directory)
    for name, (_, what) in describe_settings().items():
        text = what[0].upper() + what[1:].rstrip(".")
        comment = textwrap.fill(text, _COLUMNS, initial_indent="# ", subsequent_indent="# ")
        parts.append(f"{comment}\n#{name}: {_quote(defaults[name])}\n")
    return "\n".join(parts)


def _quote(value: str) -> str:
    return value if value and not set(value) & set("#:{}[]&*!|>'\"%@`$ ") else f"'{value}'"


def _write_recipes(directory: Path) -> list[Path]:
    """Write the example recipes unless the directory exists; return the files that were written."""
    if directory.exists() or directory.is_symlink():
        # Recipes that the user deleted or renamed do not come back.
        return []
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A name that nobody can know: another user, or a guest in a share, could put a link there.
    partial = Path(tempfile.mkdtemp(prefix=".virtroot-", dir=directory.parent))
    try:
        for name in _RECIPES:
            (partial / name).write_bytes((PROGRAM / "recipes" / name).read_bytes())
            (partial / name).chmod(0o644)
        partial.chmod(0o755)
        durable.publish(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return [directory / name for name in _RECIPES]


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file unless there is one, or its directory is a link; return whether it was written."""
    if path.exists() or path.is_symlink() or path.parent.is_symlink():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".virtroot-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o644)
        durable.publish(Path(partial), path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return True


@task(name="init", positional=["directory"], help={"directory": "the directory; by default the current one"})
def init_task(
    c: Context,
    directory: str = "",
) -> None:
    """Make a project directory with settings, recipes and checks of its own; what exists in it stays.

    ./inv init vms
    """
    chosen = Path(directory or ".").resolve()
    written = init(chosen)
    for path in written:
        say(f"wrote {path}")
    if chosen == SYSTEM:
        say(f"output of {SYSTEM} is in {SYSTEM_OUTPUT}")
    where = "" if directory in ("", ".") else f"cd {shlex.quote(directory)} && "
    say(f"{chosen} is a project directory now; next: {where}{invocation.get_name()} demo")
