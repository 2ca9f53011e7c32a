"""Memory for guests: one boots only where there is room for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.errors import Phase, VirtrootError
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines

#: What QEMU and virtiofsd take beside a guest's memory, and what the machine has to keep, in bytes.
_BESIDE = 512 << 20

_POLL = 2.0


class Room:
    """The memory of libvirt's machine, shared out among the boots of one task."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def for_guest(
        self, target: Target, memory: int, timeout: float, refuse_ended: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Wait until ``memory`` bytes are free on ``target`` for a guest, and keep them for it while the block runs.

        A guest takes its memory bit by bit, so what was promised to others counts as if none of it were in use yet.
        Raises `VirtrootError` when there is not enough within ``timeout`` seconds, not counting those that other boots
        of this task take, or what ``refuse_ended``, asked now and then, raises.
        """
        need, waited = memory + _BESIDE, 0.0
        with self._changed:
            while (free := available(target)) - self._taken < need:
                refuse_ended()
                if waited >= timeout:
                    raise VirtrootError(
                        f"a guest of {memory >> 20} MiB finds {free >> 20} MiB of memory available",
                        "stop guests, or give the recipe's guest less memory",
                        where=Phase.ENGINE,
                    )
                begin, others = time.monotonic(), self._taken
                self._changed.wait(_POLL)
                waited += 0 if others else time.monotonic() - begin
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()


def available(target: Target) -> int:
    """Return how many bytes the kernel says can be taken without swapping."""
    for line in split_lines(target.run(["cat", "/proc/meminfo"]).text):
        if line.startswith("MemAvailable:"):
            return int(split_fields(line)[1]) << 10
    raise VirtrootError("/proc/meminfo does not say what memory is available", "Linux 3.14 or newer is needed")
