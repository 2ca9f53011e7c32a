"""The program that ./inv starts.

It is started by its path and with Python's option -P, so that no module is imported from the current directory.
"""

from __future__ import annotations

import io
import os
import signal
import sys

# The imports take long enough for a Ctrl-C, and some libraries turn it into an error of their own. Exit at once:
# nothing has started yet that needs a clean-up.
_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

# The checkout comes last in the path, so that a stray file in it does not hide a library.
sys.path.append(__file__.rpartition("/pipelines/")[0])

from pipelines.cli.exit_status import run_task  # noqa: E402


def _main() -> None:
    from tasks import program

    if isinstance(sys.stdout, io.TextIOWrapper):
        # The text of a guest or a recipe may have characters that the terminal's encoding does not have.
        sys.stdout.reconfigure(errors="replace")
    if _interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.run()


if __name__ == "__main__":
    sys.exit(run_task(_main))
