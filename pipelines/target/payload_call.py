"""Runs the programs of the payload on a target. The payload is sent there once, as a zip file that Python runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host.feed import Source
from pipelines.host.process import Completed
from pipelines.target.payload.__main__ import COMMANDS
from pipelines.target.payload.names import LOCKS
from pipelines.target.target import Target

_PACKAGE = Path(__file__).with_name("payload")

#: The program that Python runs in the zip file.
_MAIN = b"import sys\nfrom payload.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"

#: All files of the zip have this date, so that equal payloads are equal bytes. It is the oldest that a zip can have.
_DATE = (1980, 1, 1, 0, 0, 0)

#: Where payloads lie on a target, by their digest. Only root can write there, or read.
PROGRAMS = f"{LOCKS}/programs"

#: Exit status of Python for a program that does not exist. No command of the payload exits with it.
_NO_PROGRAM = 2

# Who could write to one of the directories could run a program of its own as root.
_CHECK = """
for each in "${1%/*/*}" "${1%/*}"; do
    [ -d "$each" ] && [ ! -L "$each" ] && [ -O "$each" ] || exit 1
    [ -z "$(find "$each" -maxdepth 0 -perm /022)" ] || exit 1
done
"""

_FIND = f"""{_CHECK}
[ -f "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && [ "$(stat --format=%s -- "$1")" = "$2" ]
"""

# The input ends early if its sender is killed, so its size is compared.
_SEND = f"""
umask 077
mkdir -p -- "${{1%/*}}"
{_CHECK}
find "${{1%/*}}" -type f -mtime +7 -delete
partial=$(mktemp -- "$1.XXXXXX")
trap 'rm -f -- "$partial"' EXIT
cat > "$partial"
[ "$(stat --format=%s -- "$partial")" = "$2" ]
sync "$partial"
mv -T -- "$partial" "$1"
"""

# For a target on which no directory can be written: the zip file is a file in memory.
_LOADER = """
import base64, os, sys
file = os.fdopen(os.memfd_create("virtroot"), "wb", closefd=False)
file.write(base64.b64decode(sys.argv.pop(1)))
file.flush()
sys.path.insert(0, f"/proc/self/fd/{file.fileno()}")
from payload.__main__ import main
sys.exit(main(sys.argv[1:]))
"""

#: The words that let Python run the payload, by target.
_found: dict[Target, tuple[str, ...]] = {}


@cache
def archive() -> bytes:
    """Return the payload as a zip file that Python can run. Equal sources give equal bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _DATE), _MAIN)
        for path in sorted(_PACKAGE.glob("*.py")):
            entry = zipfile.ZipInfo(f"payload/{path.name}", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return packed.getvalue()


def call(
    target: Target,
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    stdin: Source | None = None,
    timeout: float | None = None,
    limit: int | None = None,
    in_memory: bool = False,
) -> Completed:
    """Run a command of the payload on ``target`` with ``arguments``, and return how it ended; see `payload.__main__`.

    ``stdin`` is the stream of a command that reads one. ``timeout`` is in seconds, ``limit`` in bytes of output. With
    ``in_memory`` the payload is not written to the target's disk.
    """
    packed = json.dumps(arguments or {})
    words = [command] if stdin is None else [command, packed]
    given: Source = packed.encode() if stdin is None else stdin
    is_stream = not isinstance(given, bytes)
    # A stream can be sent once only, so the program has to exist before.

    def run(where: tuple[str, ...]) -> Completed:
        argv = [target.python, "-I", *where, *words]
        return target.run(argv, stdin=given, check=False, timeout=timeout, limit=limit)

    done = run(_in_memory() if in_memory else _locate(target, again=is_stream))
    if done.returncode == _NO_PROGRAM and not is_stream and not in_memory:
        # The target was started again since.
        done = run(_locate(target, again=True))
    if done.returncode == 0 and command in COMMANDS and not done.stdout:
        raise VirtrootError(
            f"the program {command} printed nothing on libvirt's host", f"delete {PROGRAMS} there, then try again"
        )
    return done


def _in_memory() -> tuple[str, ...]:
    return "-c", _LOADER, base64.b64encode(archive()).decode()


def _locate(target: Target, *, again: bool) -> tuple[str, ...]:
    """Return the words that let Python run the payload on ``target``, and send it there if it is missing."""
    if target not in _found or again:
        packed = archive()
        path = f"{PROGRAMS}/{hashlib.sha256(packed).hexdigest()[:32]}.zip"
        size = str(len(packed))
        is_there = target.run(["sh", "-c", _FIND, "find", path, size], check=False).returncode == 0
        if not is_there:
            argv = ["sh", "-ec", _SEND, "send", path, size]
            is_there = target.run(argv, stdin=packed, check=False).returncode == 0
        _found[target] = (path,) if is_there else _in_memory()
    return _found[target]
