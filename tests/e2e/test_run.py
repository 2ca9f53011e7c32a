"""A guest that is thrown away: its command's output and status, and nothing of it left, however it ended."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot, named

POOL, BOOT = "/var/lib/libvirt/filesystems", "/var/lib/libvirt/boot"
GUEST = f"run-{named('quick')}"


def left(inv: Virtroot) -> list[str]:
    """Return what there is of guests that are thrown away: domains, roots and copies of kernels."""
    hypervisor = connect(inv.settings)
    found = hypervisor.target.run(["sh", "-c", 'ls -A "$@" 2>/dev/null || true', "ls", POOL, BOOT]).text.split()
    return [word for word in [*(known.name for known in hypervisor.domains()), *found] if GUEST in word]


def until(inv: Virtroot, state: str) -> None:
    """Wait until the guest is in that state of libvirt's."""
    deadline = time.monotonic() + 60
    while GUEST not in connect(inv.settings).virsh("list", "--name", f"--state-{state}").text:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def arguments(quick: Path) -> tuple[str, ...]:
    return ("run", "--artifact", str(quick), "--")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_ended_leaves_nothing(inv: Virtroot, arguments: tuple[str, ...], ending: signal.Signals) -> None:
    task = inv.start(*arguments, "sleep", "600")
    until(inv, "running")
    task.send_signal(ending)
    _, said = task.communicate(timeout=60)
    assert (task.returncode, "Traceback" in said) == (130, False), said
    assert left(inv) == []


def test_what_a_killed_one_left_goes_with_the_next_which_gives_output_and_status(
    inv: Virtroot, arguments: tuple[str, ...]
) -> None:
    killed = inv.start(*arguments, "sleep", "600")
    until(inv, "running")
    killed.kill()
    killed.communicate()
    assert left(inv) != []
    done = inv(*arguments, "sh", "-c", "cat /etc/hostname; echo complaint >&2; exit 3", status=3)
    assert done.stdout == f"{GUEST}\n"
    assert "complaint\n" in done.stderr
    assert f"removing the guest {GUEST} that a killed run left" in done.stderr
    assert left(inv) == []


def test_without_a_command_and_a_terminal_nothing_is_made(inv: Virtroot, arguments: tuple[str, ...]) -> None:
    assert "standard input is not a terminal" in inv(*arguments[:-1], status=2).stderr
    assert left(inv) == []
