"""Locks an open file; see flock(2)."""

from __future__ import annotations

import fcntl


def try_lock(handle: int) -> bool:
    """Lock an open file; return False if another process has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
