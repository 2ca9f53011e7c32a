"""Runs tasks that must be refused."""

from __future__ import annotations

from tests.conftest import Virtroot


def refused(inv: Virtroot, *arguments: str, **env: str) -> str:
    """Run a task that must be refused, in this process, check the form of its answer, and return it."""
    done = inv.here(*arguments, status=2, **env)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *_, what, hint = done.stderr.rstrip("\n").splitlines()
    assert what.startswith("error: ")
    assert hint.startswith("try: ")
    assert len(what) > len("error: ")
    assert len(hint) > len("try: ")
    return done.stderr
