"""Runs the commands that it reads from standard input, one after the other; `runner` starts it in a container.

Needs nothing but Python's library. A request is a line of JSON (``argv``, ``env`` to add, and ``stdin``: how many bytes
follow, or null) and those bytes; an answer is a line of JSON (``status``, ``out`` and ``err``: how many bytes follow)
and both outputs.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import IO

#: What is answered before anything is asked.
GREETING = b"commands\n"

#: What a shell's status is for a program that is not there, and for one that cannot be run.
_MISSING, _CANNOT = 127, 126


def serve(requests: IO[bytes], answers: IO[bytes], environment: dict[bytes, bytes]) -> None:
    """Greet, then run what ``requests`` ask for until they end; commands have ``environment`` and what is added."""
    answers.write(GREETING)
    answers.flush()
    while line := requests.readline():
        asked = json.loads(line)
        given = None if asked["stdin"] is None else requests.read(asked["stdin"])
        more = {name.encode(): value.encode() for name, value in asked["env"].items()}
        status, out, err = _run(asked["argv"], given, {**environment, **more})
        answers.write(json.dumps({"status": status, "out": len(out), "err": len(err)}).encode() + b"\n" + out + err)
        answers.flush()


def _run(argv: list[str], given: bytes | None, environment: dict[bytes, bytes]) -> tuple[int, bytes, bytes]:
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    pipe = subprocess.PIPE
    try:
        # In a session of its own, as an exec of the engine's is: what signals its group does not reach this program.
        with subprocess.Popen(
            argv, env=environment, stdin=stdin, stdout=pipe, stderr=pipe, start_new_session=True
        ) as child:
            out, err = child.communicate(given)
    except (OSError, ValueError) as error:
        status = _MISSING if getattr(error, "errno", None) == errno.ENOENT else _CANNOT
        return status, b"", f"{argv[0]}: {getattr(error, 'strerror', None) or error}\n".encode(errors="replace")
    # As a shell has it: 128 and the signal's number.
    return (128 - child.returncode if child.returncode < 0 else child.returncode), out, err


if __name__ == "__main__":
    # As it was when this began: Python itself adds LC_CTYPE to it.
    _entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    _began = dict(entry.split(b"=", 1) for entry in _entries if b"=" in entry)
    serve(sys.stdin.buffer, sys.stdout.buffer, _began)
