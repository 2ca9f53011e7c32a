"""Notices: a command of the user's gets a document about a change on its standard input."""

from __future__ import annotations

import shlex

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import warn

#: Seconds that a notice may take: a nightly run must not wait for a mail server.
_TIMEOUT = 60

_LIMIT = 1 << 20


def send(command: str, document: str) -> bool:
    """Run ``command``, split into words as by a shell but without one, with ``document`` as its input.

    Returns whether it succeeded. One that fails or hangs causes a warning and does not stop the caller.
    """
    try:
        process.run(shlex.split(command), stdin=document.encode(), timeout=_TIMEOUT, limit=_LIMIT, new_session=True)
    except (VirtrootError, ValueError) as error:
        warn(f"cannot send the notice {command!r}: {error.what if isinstance(error, VirtrootError) else error}")
        return False
    return True
