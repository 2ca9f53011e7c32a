"""What ./inv starts, by its path and with Python's safe path: nothing in the current directory is ever imported."""

from __future__ import annotations

import io
import os
import signal
import sys

# Imports take long enough for a Ctrl-C, and turn it into errors of their own; nothing is under way that needs clearing.
_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

# Last on the path, so that no file that lies about in the checkout stands in for a library.
sys.path.append(__file__.rpartition("/pipelines/")[0])

from pipelines.cli.exit_status import status  # noqa: E402


def _main() -> None:
    from tasks import program

    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a guest or a recipe says need not exist in the language of this terminal.
        sys.stdout.reconfigure(errors="replace")
    if _interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.run()


if __name__ == "__main__":
    sys.exit(status(_main))
