"""Runs one of the programs: ``python3 -I PATH COMMAND [JSON]``.

The arguments of a command are a JSON object. It is the third word for a command that reads a stream, and comes on
standard input otherwise. The result is written to standard output as JSON, unless the command writes a stream itself.
A refusal is one line on standard error and exit status 1 (see `errors` for others). Status 2 is Python's own, for a
file that does not exist.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .errors import Refused

#: Module and function of each command.
COMMANDS = {
    "boot-file-mode": ("kernel_copy", "boot_file_mode"),
    "check-not-replaced": ("guest_files", "check_not_replaced"),
    "check-path-length": ("path_length", "check"),
    "collect-facts": ("facts", "collect"),
    "copy-kernel": ("kernel_copy", "copy_kernel"),
    "copy-state": ("tree_copy", "copy_state"),
    "delete-files": ("guest_files", "delete"),
    "detach-layers": ("layers", "detach_copy"),
    "digest": ("layers", "digest"),
    "end-publication": ("publish", "end"),
    "exchange": ("exchange", "exchange"),
    "find-lock-holder": ("lock_holder", "find_holder"),
    "find-owners": ("owners", "find_owners"),
    "find-pending-swap": ("swap", "find_pending"),
    "find-published": ("publish", "find_published"),
    "find-unserved": ("virtiofsd_processes", "find_unserved"),
    "inspect-exposure": ("exposure", "inspect"),
    "find-signs": ("signs", "search"),
    "finish-swap": ("swap", "finish"),
    "begin-swap": ("swap", "begin"),
    "make-directory": ("guest_files", "make_directory"),
    "measure": ("usage", "measure_all"),
    "mount-layers": ("layers", "mount"),
    "publish": ("publish", "publish"),
    "read-kernel-release": ("kernel_copy", "read_release"),
    "read-sshd": ("sshd", "read_sshd"),
    "save-inventory": ("inventory", "save"),
    "substitute": ("guest_files", "substitute"),
    "undo-removal": ("withdraw", "undo"),
    "unmount-layers": ("layers", "unmount"),
    "wait-for-journals": ("journal", "wait_for"),
    "withdraw": ("withdraw", "withdraw"),
}

#: Commands that write a stream to standard output.
WRITERS = {
    "read-file": ("streams", "read_file"),
    "write-inventory": ("inventory", "write"),
}

#: Commands that read a stream from standard input.
READERS = {
    "prepare-start": ("streams", "prepare_start"),
    "write-file": ("streams", "write_file"),
}


def main(words: Sequence[str]) -> int:
    """Run the command in ``words`` and return the exit status."""
    command, *rest = words
    try:
        if command in READERS:
            _load(READERS[command])(**(json.loads(rest[0]) if rest else {}))
            return 0
        arguments = json.load(sys.stdin)
        if command in WRITERS:
            _load(WRITERS[command])(**arguments)
            return 0
        # Also null, so that the caller can tell a program that ran from an empty file that Python accepts as one.
        json.dump(_load(COMMANDS[command])(**arguments), sys.stdout)
    except (Refused, OSError) as error:
        sys.stderr.write(f"virtroot: {error}\n")
        return getattr(error, "status", 1)
    return 0


def _load(place: tuple[str, str]) -> Callable[..., Any]:
    module, function = place
    # Only the module that a command needs is compiled: that is most of the time that a start takes.
    loaded: Callable[..., Any] = getattr(importlib.import_module(f".{module}", __package__), function)
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
