"""Programs of a root that a guest has written to, run for verify: no terminal, no end without a bound."""

from __future__ import annotations

import shlex

import pytest

from pipelines.errors import VirtrootError
from pipelines.libvirt.connect import connect
from pipelines.target.target import Target
from tests.acceptance.backends import ChrootBackend
from tests.conftest import Virtroot


@pytest.fixture(scope="module")
def target(inv: Virtroot) -> Target:
    """The embedded hypervisor; its own root stands for a guest's."""
    return connect(inv.settings).target


def on_a_terminal(target: Target, argv: list[str]) -> str:
    return target.run(["script", "--quiet", "--return", "--command", shlex.join(argv), "/dev/null"]).text


def test_it_cannot_type_into_the_callers_terminal(target: Target) -> None:
    """TIOCSTI, which newer kernels may refuse to all, wants the caller's controlling terminal."""
    look = ["sh", "-c", "if (: < /dev/tty); then echo reached; else echo none; fi 2> /dev/null"]
    enter = ChrootBackend(target, "/", confined=True).enter
    assert on_a_terminal(target, [*enter, *look]).splitlines()[-1].strip() == "none"
    assert "reached" in on_a_terminal(target, [*(part for part in enter if part != "--new-session"), *look])


def test_it_cannot_print_without_end(target: Target) -> None:
    backend = ChrootBackend(target, "/", confined=True)
    with pytest.raises(VirtrootError, match="printed more"):
        backend.run("yes hostile-output")
    left = target.run(["sh", "-c", "grep -la hostile-outpu[t] /proc/[0-9]*/cmdline"], check=False).text
    assert left == ""


def test_it_changes_nothing_and_reaches_nobody(target: Target) -> None:
    backend = ChrootBackend(target, "/", confined=True)
    assert backend.run("touch /etc/planted").rc != 0
    interfaces = backend.run("cat /proc/net/dev").stdout.splitlines()[2:]
    assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]
