"""Memory for guests: a guest boots only when there is enough of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.errors import Phase, VirtrootError
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines

#: Bytes that QEMU and virtiofsd need in addition to a guest's memory, and that the machine has to keep free.
_OVERHEAD = 512 << 20

_POLL_SECONDS = 2.0


class MemoryBudget:
    """The memory of libvirt's host, divided among the boots of one task."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def reserve(
        self, target: Target, memory: int, timeout: float, refuse_ended: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Wait until ``memory`` bytes are free on ``target`` for a guest, and reserve them while the block runs.

        A guest takes its memory gradually, so reservations of other boots count as if none of them were used yet.
        Raises `VirtrootError` if there is not enough after ``timeout`` seconds, not counting the time during which
        other boots of this task hold reservations. ``refuse_ended`` is called at intervals and may raise.
        """
        need, waited = memory + _OVERHEAD, 0.0
        with self._changed:
            while (free := read_available(target)) - self._taken < need:
                refuse_ended()
                if waited >= timeout:
                    raise VirtrootError(
                        f"not enough memory for a guest of {memory >> 20} MiB: {free >> 20} MiB are available",
                        "stop guests, or give the recipe's guest less memory",
                        where=Phase.ENGINE,
                    )
                begin, others = time.monotonic(), self._taken
                self._changed.wait(_POLL_SECONDS)
                waited += 0 if others else time.monotonic() - begin
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()


def read_available(target: Target) -> int:
    """Return how many bytes can be allocated without swapping, according to the kernel."""
    for line in split_lines(target.run(["cat", "/proc/meminfo"]).text):
        if line.startswith("MemAvailable:"):
            return int(split_fields(line)[1]) << 10
    raise VirtrootError("/proc/meminfo has no MemAvailable", "use Linux 3.14 or newer")
