"""The state of a project directory, according to git."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.text import trim


def read_state(project: str) -> tuple[str, bool]:
    """Return the commit of ``project``, and whether files were changed since; an empty commit if git does not know."""
    # safe.directory: the project may belong to another user. This process uses its settings already.
    git = ["git", "-C", project, "-c", f"safe.directory={project}"]
    try:
        commit = process.run([*git, "rev-parse", "HEAD"], check=False, timeout=30)
        changed = process.run([*git, "status", "--porcelain"], check=False, timeout=60)
    except VirtrootError:
        return "", False
    return ("", False) if commit.returncode else (trim(commit.text), bool(trim(changed.text)))
