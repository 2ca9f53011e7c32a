#!/usr/bin/env python3
"""Touches a guest's root from outside without ever leaving it. Runs beside libvirt, with nothing but Python's library.

A guest owns its root: it can turn any path in it into a link to any file of the host, or into a device. libvirt chowns
what a domain's kernel names, as root and through links, so a kernel inside the root hands the guest any file of the
host. Here every path is opened by the kernel beneath the root (openat2, RESOLVE_BENEATH), must be a regular file of a
bounded size, and is copied to a directory that belongs to the host.

Called as a program in two ways: by virtroot, with a command and its arguments; and by libvirt's hook, with the domain's
XML on standard input, before each start.
"""

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import os
import re
import secrets
import shutil
import stat
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import BinaryIO

#: The namespace of virtroot's element in a domain's metadata.
NAMESPACE = "urn:virtroot:1"

_OPENAT2 = 437
_RESOLVE_BENEATH = 0x08
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_NO_SUCH_SYSCALL = 38

#: A kernel or initramfs of more bytes is none: the copy would fill the host's disk.
LARGEST_BOOT_FILE = 512 << 20

#: As much of a kernel as can hold the name of its release: its header says where that is, in 16 bits.
_KERNEL_HEAD = 0x200 + 0x10000 + 128

#: Nothing that is read from a root, like a host key, has more bytes.
LARGEST_READ = 64 << 10

#: Directories with a guest's kernel are called that: no other directory's files are replaced.
BOOT_PREFIX = "virtroot."

#: Beside a root, and called after it: there while the guest is being switched to another one.
SWITCHING = "@switch"

#: Locked while a task of virtroot's needs the guest off; it is called after the directory of the root.
OFF_LOCK = "/run/virtroot/off-{}.lock"

#: The same while the guest is being removed.
REMOVING = "@removal"

#: Where libvirt's daemon keeps the definitions of the domains that run.
RUNNING = "/run/libvirt/qemu"

_RENAME_EXCHANGE = 2

#: libvirt's configuration of QEMU, which says whether libvirt gives a kernel copy to QEMU's user.
QEMU_CONF = "/etc/libvirt/qemu.conf"

#: The lock file that hand-overs wait for each other by, in the directory of guests' kernels.
_LOCK = ".virtroot-lock"

#: Seconds that a hand-over waits for another one, which takes a few.
PATIENCE = 120

#: See ioctl_ficlone(2).
_FICLONE = 0x40049409


_DYNAMIC = re.compile(r"\s*dynamic_ownership\s*=")


class Refused(Exception):
    """A path in a guest's root is not what it has to be."""


class Missing(Refused):
    """There is no such path."""


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_beneath(root: int, path: str, flags: int, *, links: bool = True) -> int:
    """Open ``path`` below the directory descriptor ``root`` and return a descriptor.

    Links are followed while they stay inside, or not at all without ``links``; absolute links, links that climb out and
    loops are refused by the kernel (openat2(2), Linux 5.6). Raises `Refused`.
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if descriptor >= 0:
        return int(descriptor)
    number = ctypes.get_errno()
    if number == _NO_SUCH_SYSCALL:
        raise Refused("this kernel has no openat2; Linux 5.6 or newer is needed")
    reason = {18: "leaves the root through a link", 40: "is a loop of links"}.get(number, os.strerror(number).lower())
    raise (Missing if number == errno.ENOENT else Refused)(f"{path}: {reason}")


def open_regular(root: int, path: str, largest: int) -> int:
    """Open the regular file ``path`` below ``root``, of ``largest`` bytes at most, for reading.

    It is looked at before it is opened: opening a device or a pipe that the guest put there would already act on it.
    """
    handle = open_beneath(root, path, os.O_PATH)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{path}: is no regular file")
        if found.st_size > largest:
            raise Refused(f"{path}: has {found.st_size} bytes, more than the {largest} that are taken")
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _copy_out(root: int, path: str, destination: str) -> None:
    """Copy ``path`` below ``root`` to the new file ``destination``; see `boot_file_mode`."""
    source = open_regular(root, path, LARGEST_BOOT_FILE)
    try:
        with _new_file(destination, boot_file_mode(), None) as target:
            if _share(source, target.fileno()):
                if os.fstat(target.fileno()).st_size > LARGEST_BOOT_FILE:
                    raise Refused(f"{path}: grows while it is copied")
                return
            left = LARGEST_BOOT_FILE
            while chunk := os.read(source, 1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise Refused(f"{path}: grows while it is copied")
                target.write(chunk)
    finally:
        os.close(source)


def boot_file_mode(conf: str = "") -> int:
    """Return the mode of a kernel copy: other users have no business in what comes out of a root.

    libvirt gives a domain's kernel and initramfs to QEMU's user at its start (dynamic_ownership in qemu.conf), and back
    to root at its end. Where it was told not to, QEMU's user has to be able to read them by itself.
    """
    try:
        with open(conf or QEMU_CONF, encoding="utf-8", errors="replace") as lines:
            said = [line.split("=", 1)[1].split("#")[0].strip(" \t\r\n") for line in lines if _DYNAMIC.match(line)]
    except OSError:
        said = []
    return 0o644 if said[-1:] == ["0"] else 0o600


def _share(source: int, target: int) -> bool:
    """Let an empty file share the blocks of ``source``, as a copy would have them; say whether the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _new_file(path: str, mode: int, directory: int | None) -> BinaryIO:
    """Create ``path`` (below the directory descriptor, where given) with exactly ``mode``, whatever the umask."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory)
    os.fchmod(handle, mode)
    return os.fdopen(handle, "wb")


def hand_over(root_path: str, directory: str, kernel: str, initrd: str = "") -> None:
    """Copy the kernel and the initramfs of a guest's root into the host-owned ``directory``, both or neither.

    Without ``initrd`` there is no initramfs, and an earlier one goes.

    They are copied to a directory beside it, which then takes its place in one step. Hand-overs wait for each other.
    """
    parent, name = os.path.split(directory)
    if not name.lstrip(".").startswith(BOOT_PREFIX):
        raise Refused(f"{directory} is no directory of virtroot's for kernels")
    _make_open(parent)
    lock = _open_lock(parent)
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    partial = os.path.join(parent, f".{name.lstrip('.')}@{secrets.token_hex(4)}")
    try:
        _wait_for(lock, os.path.join(parent, _LOCK))
        os.mkdir(partial)
        # To be entered by QEMU's user, and not to be read.
        os.chmod(partial, 0o711)
        _copy_out(root, kernel, os.path.join(partial, "kernel"))
        if initrd:
            _copy_out(root, initrd, os.path.join(partial, "initrd"))
        _put_in_place(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(root)
        os.close(lock)


def _open_lock(directory: str) -> int:
    """Open the lock file of hand-overs, for root alone: who can open it could hold the lock for ever."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(os.path.join(directory, _LOCK), flags, 0o600)
    os.fchmod(lock, 0o600)
    return lock


def _wait_for(lock: int, path: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Refused(
                    f"{path}: another process has locked it for {PATIENCE} s; fuser {path} names it"
                ) from None
            time.sleep(0.05)


def release(kernel: str) -> str:
    """Return the release that a copied kernel names in its header (Linux' x86 boot protocol); empty where it has none.

    A guest wrote the file: only a bounded part is read, and only a word that looks like a release is returned.
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


def _make_open(directory: str) -> None:
    """Make a directory where it is missing, for QEMU's user to enter, whatever the umask."""
    if not os.path.isdir(directory):
        os.makedirs(directory)
        # To be entered and not to be read.
        os.chmod(directory, 0o711)


def _put_in_place(partial: str, directory: str) -> None:
    """Let ``partial`` become ``directory``, together with the other files that are there; what was replaced is left."""
    if not os.path.isdir(directory):
        os.rename(partial, directory)
        return
    for name in os.listdir(directory):
        if name not in ("kernel", "initrd"):
            os.link(os.path.join(directory, name), os.path.join(partial, name))
            # Earlier versions left what the guest was made from open to all.
            os.chmod(os.path.join(partial, name), 0o600)
    if _try_exchange(partial, directory):
        # A file system that cannot exchange directories: two steps, each of which leaves whole files.
        for name in ("kernel", "initrd"):
            if os.path.exists(os.path.join(partial, name)):
                os.replace(os.path.join(partial, name), os.path.join(directory, name))
            elif os.path.exists(os.path.join(directory, name)):
                os.remove(os.path.join(directory, name))


def _try_exchange(one: str, other: str) -> int:
    """Let two directories change their names with each other in one step; return the error's number, 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = ctypes.c_int(-100)
    failed = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return ctypes.get_errno() if failed else 0


def exchange(one: str, other: str) -> None:
    """Let two directories change their names with each other, and flush that; neither is ever deleted."""
    _exchange(one, other)
    for path in (one, other):
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _exchange(one: str, other: str) -> None:
    number = _try_exchange(one, other)
    if not number:
        return
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), one, None, other)
    # Under a name that whoever comes next looks for.
    aside = f"{other}@aside"
    if os.path.isdir(aside):
        os.rename(aside, one if os.path.isdir(other) else other)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def write(root_path: str, path: str, mode: int, content: Iterable[bytes], *, over_files: bool = False) -> None:
    """Write a file in a guest's root, beside its name and renamed; missing directories are made, mode 0755.

    A link in the file's own place is replaced, not followed. With ``over_files`` nothing but a file is replaced.
    """
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parent, _, name = path.rpartition("/")
    directory = root
    try:
        directory = _directory(root, parent)
        if over_files:
            _refuse_other_kind(directory, name, path)
        partial = f".{name}.virtroot-{secrets.token_hex(4)}"
        try:
            with _new_file(partial, mode, directory) as target:
                target.writelines(content)
                target.flush()
                os.fsync(target.fileno())
            os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
            _flush(directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=directory)
            raise
    finally:
        if directory != root:
            os.close(directory)
        os.close(root)


def _flush(directory: int) -> None:
    """Flush the names in the directory of a descriptor, which may be one for its path alone."""
    readable = os.open(f"/proc/self/fd/{directory}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def _refuse_other_kind(directory: int, name: str, path: str) -> None:
    """Raise `Refused` where ``name`` is a link, a device or a FIFO; what is a directory, the rename says."""
    try:
        kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(kind):
        raise Refused(f"{path} is a link to {os.readlink(name, dir_fd=directory)!r}: name the file that it leads to")
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise Refused(f"{path} is not a regular file")


def substitute(root_path: str, old: str, new: str, *paths: str) -> None:
    """Replace ``old`` by ``new`` in files of a guest's root, which keep their mode and owners.

    Files that are missing, or that have more bytes than are read, stay as they are.
    """
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            with contextlib.suppress(Refused):
                _substitute(root, old.encode(), new.encode(), path)
    finally:
        os.close(root)


def _substitute(root: int, old: bytes, new: bytes, path: str) -> None:
    with os.fdopen(open_regular(root, path, LARGEST_READ), "rb") as source:
        status, content = os.fstat(source.fileno()), source.read(LARGEST_READ)
    if old not in content:
        return
    parent, _, name = path.rpartition("/")
    directory = open_beneath(root, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
    partial = f".{name}.virtroot-{secrets.token_hex(4)}"
    try:
        # What is a link there is not followed, but left: the file that it leads to has a path of its own.
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return
        with _new_file(partial, 0o600, directory) as target:
            target.write(content.replace(old, new))
            os.fchown(target.fileno(), status.st_uid, status.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
        os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=directory)
        os.close(directory)


def make_directory(root_path: str, path: str) -> None:
    """Make the directory ``path`` in a guest's root and those above it, mode 0755; what is there stays as it is."""
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_directory(root, path))
    finally:
        os.close(root)


def _directory(root: int, path: str) -> int:
    """Open the directory ``path`` below ``root``, making what is missing of it."""
    handle, so_far = os.dup(root), ""
    for part in path.split("/") if path else []:
        so_far = f"{so_far}/{part}" if so_far else part
        try:
            following = _make_directory(root, so_far, handle, part)
        finally:
            os.close(handle)
        handle = following
    return handle


def _make_directory(root: int, path: str, parent: int, name: str) -> int:
    try:
        return open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
    except Refused as refused:
        # Only what does not exist at all is made: a link that leads nowhere or out stays refused.
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            raise refused from None
        made = open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
        os.chmod(f"/proc/self/fd/{made}", 0o755)
        return made


def read(root_path: str, path: str, largest: int = LARGEST_READ) -> bytes:
    """Return the content of a regular file in a guest's root."""
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.fdopen(open_regular(root, path, largest), "rb") as content:
            return content.read(largest)
    finally:
        os.close(root)


def forget(root_path: str, *paths: str) -> list[str]:
    """Delete the regular files ``paths`` of a guest's root, and all of sshd's host keys; what is not there is fine.

    In the last component of a path a star stands for any characters. Return the paths that stay, since a link on the
    way leads out of the root; host keys are refused then.
    """
    stay = []
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in (*paths, "etc/ssh/"):
            parent, _, name = path.rpartition("/")
            try:
                directory = open_beneath(root, parent, os.O_RDONLY | os.O_DIRECTORY)
            except Missing:
                continue
            except Refused:
                if not name:
                    raise
                stay.append(path)
                continue
            try:
                for each in os.listdir(directory):
                    if fnmatch.fnmatchcase(each, name or "ssh_host_*"):
                        _delete_regular(directory, each)
            finally:
                os.close(directory)
    finally:
        os.close(root)
    return stay


def _delete_regular(directory: int, name: str) -> None:
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)


def refuse_replaced(root_path: str, path: str) -> None:
    """Refuse a ``path`` that is no directory of a guest's root, but a link: what it leads to would be served."""
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, links=False))
    except Refused:
        raise Refused(f"{path}: is no directory of the root's own, and would be served as one") from None
    finally:
        os.close(root)


def _refuse_replaced(domain: ET.Element, root: str) -> None:
    """Refuse directories that the domain is to have and that are somewhere else by now."""
    for filesystem in domain.iterfind("devices/filesystem"):
        driver, source = filesystem.find("driver"), filesystem.find("source")
        path = "" if source is None else source.get("dir", "")
        if driver is None or driver.get("type") != "virtiofs" or path in ("", root):
            continue
        if path.startswith(f"{root}/"):
            refuse_replaced(root, path[len(root) + 1 :])
        elif os.path.realpath(path) != path:
            raise Refused(f"{path}: leads to {os.path.realpath(path)} now")


def _refuse_in_use(domain: ET.Element, root: str, running: str) -> None:
    """Refuse a root that a domain runs on; ``running`` is the directory that tells which do."""
    for name in os.listdir(running) if os.path.isdir(running) else []:
        if not name.endswith(".xml"):
            continue
        try:
            other = ET.parse(os.path.join(running, name)).find("domain")  # noqa: S314 - libvirt's own
        except (OSError, ET.ParseError):
            continue  # it has ended, or is being written
        if other is None or other.findtext("uuid") == domain.findtext("uuid"):
            continue
        if root in (source.get("dir") for source in other.iterfind("devices/filesystem/source")):
            raise Refused(f"{root}: {other.findtext('name')} runs on it, and a root is one guest's")


def _refuse_kept_off(name: str) -> None:
    """Refuse to start the guest whose root is the directory ``name`` while a task reads or replaces that root.

    Tools like cp look up paths again and again: a guest that runs meanwhile could lead them out of its root.
    """
    try:
        handle = os.open(OFF_LOCK.format(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"a task of virtroot works on {name}, and nobody may start on that until it ends") from None
    finally:
        os.close(handle)


def hook(domain_xml: str, running: str = RUNNING) -> None:
    """Hand the kernel over anew for the domain that libvirt is about to start, if it is one of virtroot's.

    ``running`` is the directory with the definitions of those that run.
    """
    domain = ET.fromstring(domain_xml)  # noqa: S314 - it comes from libvirt, on this machine
    guest = domain.find(f"metadata/{{{NAMESPACE}}}guest")
    kernel = domain.findtext("os/kernel")
    if guest is None or not kernel:
        return
    values = {name: guest.findtext(f"{{{NAMESPACE}}}{name}") or "" for name in ("root", "kernel", "initrd")}
    if domain.findtext("os/initrd") and not values["initrd"]:
        raise Refused("the domain names an initramfs, and its metadata none that it would be a copy of")
    pool, name = os.path.split(values["root"])
    if os.path.lexists(os.path.join(pool, f".{name}{REMOVING}")):
        raise Refused(f"{values['root']}: a removal of it was cut short; ./inv start undoes that")
    if os.path.lexists(os.path.join(pool, f".{name}{SWITCHING}")):
        raise Refused(f"{values['root']}: is being changed for another root; ./inv start does what is left of that")
    _refuse_kept_off(name)
    _refuse_in_use(domain, values["root"], running)
    _refuse_replaced(domain, values["root"])
    hand_over(values["root"], os.path.dirname(kernel), values["kernel"], values["initrd"])


def main(arguments: Sequence[str]) -> None:
    """Act on the command line; see the module's docstring."""
    command, *rest = arguments
    if command == "--hand-over":
        hand_over(*rest)
    elif command == "--release":
        sys.stdout.write(release(*rest))
    elif command == "--refuse-replaced":
        refuse_replaced(*rest)
    elif command == "--exchange":
        exchange(*rest)
    elif command == "--write":
        root, path, mode, content = rest
        write(root, path, int(mode, 8), [content.encode()])
    elif command == "--put":
        root, path, mode = rest
        write(root, path, int(mode, 8), iter(lambda: sys.stdin.buffer.read(1 << 20), b""))
    elif command == "--put-over-files":
        root, path, mode = rest
        write(root, path, int(mode, 8), iter(lambda: sys.stdin.buffer.read(1 << 20), b""), over_files=True)
    elif command == "--substitute":
        substitute(*rest)
    elif command == "--directory":
        make_directory(*rest)
    elif command == "--read":
        root, path, *largest = rest
        sys.stdout.buffer.write(read(root, path, *map(int, largest)))
    elif command == "--read-if-there":
        root, path, largest_read = rest
        with contextlib.suppress(Missing):
            sys.stdout.buffer.write(read(root, path, int(largest_read)))
    elif command == "--forget":
        sys.stdout.write("".join(f"{path}\n" for path in forget(*rest)))
    elif command == "--hook":
        hook(sys.stdin.read())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"virtroot: {error}")
