"""The checkout that virtroot runs from, as git knows it."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.settings import CHECKOUT
from pipelines.text import trim


def state() -> tuple[str, bool]:
    """Return the checkout's commit, and whether its files differ from it; an empty commit where git does not say."""
    # Whoever owns the checkout: what is in it runs in this process already.
    git = ["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}"]
    try:
        commit = process.run([*git, "rev-parse", "HEAD"], check=False, timeout=30)
        changed = process.run([*git, "status", "--porcelain"], check=False, timeout=60)
    except VirtrootError:
        return "", False
    return ("", False) if commit.returncode else (trim(commit.text), bool(trim(changed.text)))
