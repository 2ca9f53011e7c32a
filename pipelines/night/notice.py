"""Notices: a command of the user's is told what changed, on its standard input."""

from __future__ import annotations

import shlex

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import warn

#: Seconds that a notice may take: a night does not wait for a mail server.
_TIMEOUT = 60

_LIMIT = 1 << 20


def send(command: str, document: str) -> bool:
    """Run ``command`` (split into words as a shell does, but by none) with ``document`` as its input.

    Say whether it did well; one that fails or hangs is warned of and stops nothing.
    """
    try:
        process.run(shlex.split(command), stdin=document.encode(), timeout=_TIMEOUT, limit=_LIMIT, new_session=True)
    except (VirtrootError, ValueError) as error:
        warn(f"the notice {command!r} was not given: {error.what if isinstance(error, VirtrootError) else error}")
        return False
    return True
