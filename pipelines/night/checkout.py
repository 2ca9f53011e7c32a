"""The state of the checkout that virtroot runs from, according to git."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.settings import CHECKOUT
from pipelines.text import trim


def read_state() -> tuple[str, bool]:
    """Return the checkout's commit, and whether files were changed since; an empty commit if git does not know."""
    # safe.directory: the checkout may belong to another user. This process runs its code already.
    git = ["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}"]
    try:
        commit = process.run([*git, "rev-parse", "HEAD"], check=False, timeout=30)
        changed = process.run([*git, "status", "--porcelain"], check=False, timeout=60)
    except VirtrootError:
        return "", False
    return ("", False) if commit.returncode else (trim(commit.text), bool(trim(changed.text)))
