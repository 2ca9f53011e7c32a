"""Runs the commands that it reads from standard input, one after the other; `runner` starts it in a container.

Needs nothing but Python's library. A request is a line of JSON (``argv``, ``env`` to add, and ``stdin``: how many bytes
follow, or null) and those bytes; an answer is a line of JSON (``status``, ``out`` and ``err``: how many bytes follow)
and both outputs.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

#: What is answered before anything is asked.
GREETING = b"commands\n"

#: What a shell's status is for a program that is not there, and for one that cannot be run.
_MISSING, _CANNOT = 127, 126

#: Seconds of output that are read after a command has exited while a process that it started keeps the pipe open. The
#: Docker engine waits as long.
_DRAIN = 2

_CHUNK = 1 << 16


def serve(requests: IO[bytes], answers: IO[bytes], environment: dict[bytes, bytes]) -> None:
    """Greet, then run what ``requests`` ask for until they end; commands have ``environment`` and what is added."""
    answers.write(GREETING)
    answers.flush()
    while line := requests.readline():
        asked = json.loads(line)
        given = None if asked["stdin"] is None else requests.read(asked["stdin"])
        if len(given or b"") < (asked["stdin"] or 0) or _has_ended(requests):
            # The caller gave up. With a part of its input, a command would do a part of its work.
            return
        more = {name.encode(): value.encode() for name, value in asked["env"].items()}
        status, out, err = _run(asked["argv"], given, {**environment, **more})
        answers.write(json.dumps({"status": status, "out": len(out), "err": len(err)}).encode() + b"\n")
        answers.write(out)
        answers.write(err)
        answers.flush()


def _has_ended(requests: IO[bytes]) -> bool:
    """Say whether the input has ended. Before its answer a request is followed by nothing else."""
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        return bool(selector.select(0))


def _run(
    argv: list[str], given: bytes | None, environment: dict[bytes, bytes]
) -> tuple[int, bytes | bytearray, bytes | bytearray]:
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    pipe = subprocess.PIPE
    try:
        # In a session of its own, as an exec of the engine's is: what signals its group does not reach this program.
        with subprocess.Popen(
            argv, env=environment, stdin=stdin, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        ) as child:
            out, err = _exchange(child, given or b"")
    except (OSError, ValueError) as error:
        status = _MISSING if getattr(error, "errno", None) == errno.ENOENT else _CANNOT
        return status, b"", f"{argv[0]}: {getattr(error, 'strerror', None) or error}\n".encode(errors="replace")
    # As a shell has it: 128 and the signal's number.
    return (128 - child.returncode if child.returncode < 0 else child.returncode), out, err


def _exchange(child: subprocess.Popen[bytes], given: bytes) -> tuple[bytearray, bytearray]:
    """Send ``given`` to a command and return its output. Return `_DRAIN` seconds after it exited at the latest."""
    outputs: dict[Any, bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    left = memoryview(given)
    exited, tell = os.pipe()

    def wait() -> None:
        child.wait()
        os.close(tell)

    threading.Thread(target=wait, daemon=True).start()
    end = None
    with selectors.DefaultSelector() as selector, os.fdopen(exited, "rb") as watched:
        for output in outputs:
            selector.register(output, selectors.EVENT_READ)
        selector.register(watched, selectors.EVENT_READ)
        if child.stdin:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE)
        while any(key.fileobj in outputs for key in selector.get_map().values()):
            ready = selector.select(None if end is None else max(end - time.monotonic(), 0))
            if not ready:
                break
            for key, _ in ready:
                if key.fileobj is watched:
                    end = time.monotonic() + _DRAIN
                    selector.unregister(watched)
                elif key.fileobj is child.stdin:
                    left = _send(selector, child.stdin, left)
                elif chunk := os.read(key.fd, _CHUNK):
                    outputs[key.fileobj] += chunk
                else:
                    selector.unregister(key.fileobj)
    return outputs[child.stdout], outputs[child.stderr]


def _send(selector: selectors.BaseSelector, stdin: IO[bytes], left: memoryview) -> memoryview:
    """Write some of ``left``, and return the rest. Close ``stdin`` after the end, or if nobody reads it any more."""
    sent = len(left)
    with suppress(BrokenPipeError):
        sent = os.write(stdin.fileno(), left[:_CHUNK]) if left else 0
    if sent == len(left):
        selector.unregister(stdin)
        stdin.close()
    return left[sent:]


if __name__ == "__main__":
    # As it was when this began: Python itself adds LC_CTYPE to it.
    _entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    _began = dict(entry.split(b"=", 1) for entry in _entries if b"=" in entry)
    serve(sys.stdin.buffer, sys.stdout.buffer, _began)
