"""Signals that end a task as Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_ctrl_c(*signals: signal.Signals) -> Iterator[None]:
    """Let each of ``signals`` raise KeyboardInterrupt, so that what ends a task lets it clear up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
