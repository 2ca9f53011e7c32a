"""Writes and deletes single files in a guest's root from the host, and never follows a link out of it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import secrets
import stat
from collections.abc import Iterable

from . import beneath
from .beneath import LARGEST_READ, create_file, open_beneath, opened
from .errors import IsDirectory, Missing, Refused


def write(root: str, path: str, mode: int, content: Iterable[bytes], *, over_files: bool = False) -> None:
    """Write a file in a guest's root under another name, then rename it. Make missing directories, mode 0755.

    A link in the place of the file is replaced, not followed. With ``over_files`` only a regular file is replaced.
    """
    with opened(root) as handle:
        parent, _, name = path.rpartition("/")
        directory = _ensure_directories(handle, parent)
        try:
            if over_files:
                _check_is_file(directory, name, path)
            partial = f".{name}.virtroot-{secrets.token_hex(4)}"
            try:
                with create_file(partial, mode, directory) as target:
                    target.writelines(content)
                    target.flush()
                    os.fsync(target.fileno())
                os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
                _flush(directory)
            except IsADirectoryError as error:
                os.unlink(partial, dir_fd=directory)
                raise IsDirectory(f"{path}: Is a directory") from error
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=directory)
                raise
        finally:
            os.close(directory)


def read(root: str, path: str, largest: int = LARGEST_READ) -> bytes:
    """Return the content of a regular file in a guest's root; raises `Missing` if it does not exist."""
    with opened(root) as handle:
        return beneath.read(handle, path, largest)


def read_if_exists(root: str, path: str, largest: int = LARGEST_READ) -> bytes:
    """Return the content of a regular file in a guest's root; nothing if it does not exist."""
    try:
        return read(root, path, largest)
    except Missing:
        return b""


def substitute(root: str, old: str, new: str, paths: Iterable[str]) -> None:
    """Replace ``old`` by ``new`` in files of a guest's root. The files keep their modes and owners.

    Files that do not exist, or that are larger than `LARGEST_READ`, are left unchanged.
    """
    with opened(root) as handle:
        for path in paths:
            with contextlib.suppress(Refused):
                _substitute(handle, old.encode(), new.encode(), path)


def make_directory(root: str, path: str) -> None:
    """Make the directory ``path`` in a guest's root and its missing parents, mode 0755; existing ones do not change."""
    with opened(root) as handle:
        os.close(_ensure_directories(handle, path))


def delete(root: str, paths: Iterable[str]) -> list[str]:
    """Delete the regular files ``paths`` of a guest's root, and all host keys of sshd, as far as they exist.

    In the last component of a path ``*`` matches any characters. Return the paths that were not deleted because a link
    to their directory leads out of the root. Host keys behind such a link are refused.
    """
    kept = []
    with opened(root) as handle:
        for path in (*paths, "etc/ssh/"):
            parent, _, name = path.rpartition("/")
            try:
                directory = open_beneath(handle, parent, beneath.DIRECTORY)
            except Missing:
                continue
            except Refused:
                if not name:
                    raise
                kept.append(path)
                continue
            try:
                for each in os.listdir(directory):
                    if fnmatch.fnmatchcase(each, name or "ssh_host_*"):
                        _delete_regular(directory, each)
            finally:
                os.close(directory)
    return kept


def check_not_replaced(root: str, path: str) -> None:
    """Raise `Refused` if ``path`` is not a directory of the guest's root, but a link: its target would be served."""
    with opened(root) as handle:
        try:
            os.close(open_beneath(handle, path, beneath.PATH, links=False))
        except Refused:
            raise Refused(f"{path}: not a directory of the root itself, but it would be served as one") from None


def _substitute(root: int, old: bytes, new: bytes, path: str) -> None:
    with os.fdopen(beneath.open_regular(root, path, LARGEST_READ), "rb") as source:
        status, content = os.fstat(source.fileno()), source.read(LARGEST_READ)
    if old not in content:
        return
    parent, _, name = path.rpartition("/")
    directory = open_beneath(root, parent or ".", beneath.DIRECTORY)
    partial = f".{name}.virtroot-{secrets.token_hex(4)}"
    try:
        # A link is not followed here: the file that it leads to has a path of its own.
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return
        with create_file(partial, 0o600, directory) as target:
            target.write(content.replace(old, new))
            os.fchown(target.fileno(), status.st_uid, status.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
        os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=directory)
        os.close(directory)


def _check_is_file(directory: int, name: str, path: str) -> None:
    """Raise `Refused` if ``name`` is a link, a device or a FIFO. If it is a directory, the rename fails by itself."""
    found = beneath.status(directory, name)
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        link = os.readlink(name, dir_fd=directory)
        raise Refused(f"{path} is a link to {link!r}: name the file that it leads to")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{path} is not a regular file")


def _ensure_directories(root: int, path: str) -> int:
    """Open the directory ``path`` below ``root``, and make the missing parts of it. Links are followed inside."""
    handle, so_far = os.dup(root), ""
    for part in path.split("/") if path else []:
        so_far = f"{so_far}/{part}" if so_far else part
        try:
            following = _ensure_directory(root, so_far, handle, part)
        finally:
            os.close(handle)
        handle = following
    return handle


def _ensure_directory(root: int, path: str, parent: int, name: str) -> int:
    try:
        return open_beneath(root, path, beneath.PATH)
    except Refused as refused:
        # Only what does not exist at all is made. A link that leads nowhere or out stays refused.
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            raise refused from None
        made = open_beneath(root, path, beneath.PATH)
        os.chmod(f"/proc/self/fd/{made}", 0o755)
        return made


def _delete_regular(directory: int, name: str) -> None:
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)


def _flush(directory: int) -> None:
    """Flush the names in a directory. Its descriptor may be one for its path alone, which fsync(2) does not take."""
    readable = os.open(f"/proc/self/fd/{directory}", beneath.DIRECTORY)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)
