"""Signals that end a task in the same way as Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raise_interrupt_on(*signals: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt on each of ``signals`` inside the block, so that the task cleans up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
