"""A terminal for tasks that want one."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import suppress

from pipelines.settings import CHECKOUT
from tests.conftest import Virtroot


def converse(
    inv: Virtroot, *arguments: str, typed: bytes, awaited: bytes, closing: bytes, timeout: float = 60
) -> tuple[int, bytes]:
    """Run a task on a terminal, type, wait for ``awaited`` on the screen, type ``closing``; return status, screen."""
    ours, theirs = pty.openpty()
    task = subprocess.Popen(
        [str(CHECKOUT / "inv"), *arguments],
        env=inv.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen, deadline, next_key = b"", time.monotonic() + timeout, 0.0
    try:
        while awaited not in screen and time.monotonic() < deadline:
            if time.monotonic() > next_key:
                os.write(ours, typed)
                next_key = time.monotonic() + 3
            screen += _available(ours)
        os.write(ours, closing)
        while task.poll() is None and time.monotonic() < deadline:
            screen += _available(ours)
    finally:
        task.kill()
        status = task.wait()
        os.close(ours)
    return status, screen


def _available(terminal: int) -> bytes:
    if select.select([terminal], [], [], 0.2)[0]:
        with suppress(OSError):
            return os.read(terminal, 1 << 16)
    return b""
