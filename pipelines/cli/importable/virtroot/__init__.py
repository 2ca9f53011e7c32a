"""virtroot as it is imported: the program `main`, and the tasks as invoke's collection, ``collection``.

A wheel has this file as the package's own, with the rest of virtroot next to it. In a checkout, the rest is at the top.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_PROGRAM = _HERE if (_HERE / "tasks.py").is_file() else _HERE.parents[3]


def main() -> None:
    """Run the command line; ends the process."""
    runpy.run_path(str(_PROGRAM / "pipelines" / "cli" / "__main__.py"), run_name="__main__")


def __getattr__(name: str) -> Any:
    """Return the collection; making it imports every task."""
    if name != "collection":
        raise AttributeError(name)
    # Last, so that virtroot's modules hide none of the user's.
    if str(_PROGRAM) not in sys.path:
        sys.path.append(str(_PROGRAM))
    # The user's own file is the module `tasks`.
    spec = importlib.util.spec_from_file_location("virtroot.tasks", _PROGRAM / "tasks.py")
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the file is virtroot's own
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.collection
