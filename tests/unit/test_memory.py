from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.night import memory
from pipelines.night.memory import MemoryBudget, read_available
from pipelines.target.target import Local

GIB = 1 << 30


class Machine(Local):
    """A target with that much memory available, in bytes."""

    free = 4 * GIB

    def run(self, argv: Sequence[str], **_: object) -> Completed:
        text = f"MemTotal: 1 kB\nMemAvailable: {self.free >> 10} kB\n"
        return Completed(tuple(argv), 0, text.encode(), b"")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(memory, "_POLL_SECONDS", 0.01)
    return Machine()


def test_what_the_kernel_says_is_read_in_bytes(machine: Machine) -> None:
    assert read_available(machine) == 4 * GIB


def test_a_guest_for_which_there_is_never_room_is_refused(machine: Machine) -> None:
    with (
        pytest.raises(
            VirtrootError, match="not enough memory for a guest of 4096 MiB: 4096 MiB are available"
        ) as refused,
        MemoryBudget().reserve(machine, 4 * GIB, timeout=0.05),
    ):
        pass
    assert refused.value.where == "engine"


def test_who_waits_can_be_ended(machine: Machine) -> None:
    def end() -> None:
        raise VirtrootError("the nightly run was ended", "")

    with (
        pytest.raises(VirtrootError, match="the nightly run was ended"),
        MemoryBudget().reserve(machine, 4 * GIB, 300, end),
    ):
        pass


def test_a_boot_waits_for_another_however_long_that_takes(machine: Machine) -> None:
    room, second, order = MemoryBudget(), threading.Event(), list[str]()

    def boot() -> None:
        second.set()
        with room.reserve(machine, 2 * GIB, timeout=0.01):
            order.append("second")

    other = threading.Thread(target=boot)
    with room.reserve(machine, 2 * GIB, timeout=1):
        other.start()
        second.wait()
        other.join(0.2)
        assert order == []
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_room_is_given_back_by_a_boot_that_fails(machine: Machine) -> None:
    room = MemoryBudget()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.reserve(machine, 3 * GIB, timeout=0.01):
            raise ZeroDivisionError
