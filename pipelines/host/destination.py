"""Writes to a path of the user's: a file is replaced as a whole, anything else is opened and written."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from pathlib import Path

from pipelines.errors import VirtrootError

#: Paths of this process's open files. Opening one again would overwrite what others wrote there.
_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]{1,9})")

#: Errors that prevent replacing a file, but not writing to it.
_IN_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY}


def write(path: Path, content: bytes, name: str) -> None:
    """Write ``content`` to ``path``, or to the file ``name`` in it if it is a directory.

    A file is replaced by one rename and keeps its mode; a link is followed. Devices, FIFOs and open files (/dev/stdout)
    are written to. Raises VirtrootError on failure.
    """
    try:
        _write(path / name if path.is_dir() else path, content)
    except OSError as error:
        raise VirtrootError(f"cannot write {path}: {error.strerror}", "use a writable path") from error


def _write(path: Path, content: bytes) -> None:
    own = _DESCRIPTOR.fullmatch(str(path))
    if own:
        number = int(own[2]) if own[2] else ("stdin", "stdout", "stderr").index(own[1])
        with os.fdopen(os.dup(number), "wb") as opened:
            opened.write(content)
        return
    # Resolve links, even to a missing file.
    path = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        _replace(path, content, 0o666 & ~umask)
        return
    if stat.S_ISREG(mode):
        try:
            _replace(path, content, stat.S_IMODE(mode))
            return
        except OSError as error:
            if error.errno not in _IN_PLACE:
                raise
    descriptor = os.open(path, os.O_WRONLY | (os.O_TRUNC if stat.S_ISREG(mode) else 0))
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)


def _replace(path: Path, content: bytes, mode: int) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:200]}.", delete=False) as partial:
        try:
            partial.write(content)
            partial.flush()
            os.fchmod(partial.fileno(), mode)
            Path(partial.name).replace(path)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise
