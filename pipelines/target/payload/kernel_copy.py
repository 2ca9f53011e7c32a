"""Copies the kernel and the initramfs of a guest's root to a directory that belongs to the host.

libvirt changes the owner of the files that a domain's kernel and initrd name, as root and through links. With a kernel
inside the root a guest could get any file of the host. So a guest boots from a copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time

from .beneath import create_file, open_regular, opened
from .errors import Refused, TooLarge
from .exchange import try_exchange
from .file_lock import try_lock
from .names import BOOT_PREFIX

#: A kernel or an initramfs has at most this many bytes. A larger file would fill the host's disk.
LARGEST_BOOT_FILE = 512 << 20

#: Bytes of a kernel that can contain the name of its release: a field of 16 bits in its header says where that is.
_KERNEL_HEAD = 0x200 + 0x10000 + 128

#: libvirt's configuration of QEMU. It says whether libvirt changes the owner of a kernel copy to QEMU's user.
QEMU_CONF = "/etc/libvirt/qemu.conf"

_DYNAMIC = re.compile(r"\s*dynamic_ownership\s*=")

#: The file in the directory of all boot directories that is locked during a kernel copy.
_LOCK = ".virtroot-lock"

#: Seconds to wait for another kernel copy, which takes a few.
PATIENCE = 120

#: See ioctl_ficlone(2).
_FICLONE = 0x40049409


def copy_kernel(root: str, directory: str, kernel: str, initrd: str = "") -> None:
    """Copy the kernel and the initramfs of a guest's root into the host's ``directory``, both or neither.

    ``kernel`` and ``initrd`` are paths in the root. Without ``initrd`` an earlier initramfs is removed. The files are
    copied to a new directory, which replaces ``directory`` in one step. One copy waits for another.
    """
    parent, name = os.path.split(directory)
    if not name.lstrip(".").startswith(BOOT_PREFIX):
        raise Refused(f"{directory} is not a boot directory of virtroot")
    _ensure_parent(parent)
    lock = _open_lock(parent)
    partial = os.path.join(parent, f".{name.lstrip('.')}@{secrets.token_hex(4)}")
    try:
        _wait_for(lock, os.path.join(parent, _LOCK))
        os.mkdir(partial)
        # QEMU's user has to enter it, but not to list it.
        os.chmod(partial, 0o711)
        with opened(root) as handle:
            _copy_out(handle, kernel, os.path.join(partial, "kernel"))
            if initrd:
                _copy_out(handle, initrd, os.path.join(partial, "initrd"))
        _put_in_place(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def read_release(kernel: str) -> str:
    """Return the release in the header of a kernel copy (Linux x86 boot protocol); empty if it has none.

    A guest wrote the file. So the length is bounded, and only a word with the form of a release is returned.
    """
    try:
        with open(kernel, "rb") as image:
            head = image.read(_KERNEL_HEAD)
    except OSError:
        return ""
    if head[0x202:0x206] != b"HdrS":
        return ""
    begin = 0x200 + int.from_bytes(head[0x20E:0x210], "little")
    found = re.match(rb"[0-9]{1,3}\.[0-9]{1,3}[A-Za-z0-9.+~_-]{0,100}", head[begin : begin + 128])
    return found[0].decode() if found else ""


def boot_file_mode(conf: str = "") -> int:
    """Return the mode for a kernel copy. Other users may not read what comes from a root.

    libvirt changes the owner of a domain's kernel and initramfs to QEMU's user when it starts the domain, and back to
    root at its end. If dynamic_ownership is off in qemu.conf, QEMU's user has to be able to read the files as they are.
    """
    try:
        with open(conf or QEMU_CONF, encoding="utf-8", errors="replace") as lines:
            values = [line.split("=", 1)[1].split("#")[0].strip(" \t\r\n") for line in lines if _DYNAMIC.match(line)]
    except OSError:
        values = []
    return 0o644 if values[-1:] == ["0"] else 0o600


def _copy_out(root: int, path: str, destination: str) -> None:
    """Copy ``path`` below ``root`` to the new file ``destination``."""
    source = open_regular(root, path, LARGEST_BOOT_FILE)
    try:
        with create_file(destination, boot_file_mode()) as target:
            if _share_blocks(source, target.fileno()):
                if os.fstat(target.fileno()).st_size > LARGEST_BOOT_FILE:
                    raise TooLarge(f"{path}: grew while it was copied")
                return
            left = LARGEST_BOOT_FILE
            while chunk := os.read(source, 1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise TooLarge(f"{path}: grew while it was copied")
                target.write(chunk)
    finally:
        os.close(source)


def _share_blocks(source: int, target: int) -> bool:
    """Let an empty file share the blocks of ``source``; say whether the file system can do that."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _open_lock(directory: str) -> int:
    """Open the lock file, for root alone: a user who can open it could lock it for ever."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(os.path.join(directory, _LOCK), flags, 0o600)
    os.fchmod(lock, 0o600)
    return lock


def _wait_for(lock: int, path: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not try_lock(lock):
        if time.monotonic() > deadline:
            raise Refused(f"{path}: another process has locked it for {PATIENCE} s; fuser {path} names it")
        time.sleep(0.05)


def _ensure_parent(directory: str) -> None:
    if not os.path.isdir(directory):
        os.makedirs(directory)
        # The mode must not depend on the umask. QEMU's user has to enter the directory, but not to list it.
        os.chmod(directory, 0o711)


def _put_in_place(partial: str, directory: str) -> None:
    """Rename ``partial`` to ``directory``, with the other files that are in there; the old one keeps its files."""
    if not os.path.isdir(directory):
        os.rename(partial, directory)
        return
    for name in os.listdir(directory):
        if name not in ("kernel", "initrd"):
            os.link(os.path.join(directory, name), os.path.join(partial, name))
            # Earlier versions let all users read the manifest.
            os.chmod(os.path.join(partial, name), 0o600)
    if try_exchange(partial, directory) in (errno.EINVAL, errno.ENOSYS):
        # The file system cannot exchange directories. Each of these steps leaves whole files.
        for name in ("kernel", "initrd"):
            if os.path.exists(os.path.join(partial, name)):
                os.replace(os.path.join(partial, name), os.path.join(directory, name))
            elif os.path.exists(os.path.join(directory, name)):
                os.remove(os.path.join(directory, name))
