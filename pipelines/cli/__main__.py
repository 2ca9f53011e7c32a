"""What ./inv starts, by its path and with Python's safe path: nothing in the current directory is ever imported."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that no file that lies about in the checkout stands in for a library.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from pipelines.cli.ending import status


def _main() -> None:
    # Importing the tasks takes long enough for a Ctrl-C.
    from tasks import program

    program.run()


if __name__ == "__main__":
    sys.exit(status(_main))
