"""What runs beside libvirt: the hand-over, sent along as a program and as libvirt's hook; a wrapper of virtiofsd."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host.target import Target
from pipelines.libvirt import handover

_PROGRAM = Path(handover.__file__)

#: Where libvirt looks for hooks of QEMU domains; each file there is run.
HOOK = "/etc/libvirt/hooks/qemu.d/virtroot"

#: The virtiofsd of guests that mount overlayfs. AppArmor's profile of libvirt runs what is below hooks; libvirt itself
#: runs nothing there whose name is no driver's.
WRAPPER = "/etc/libvirt/hooks/virtroot/virtiofsd"


def hook() -> bytes:
    """Return libvirt's hook: a shell script with the hand-over program in it."""
    return (_PROGRAM.with_name("hook")).read_bytes() + _PROGRAM.read_bytes() + b"PROGRAM\n"


def run(target: Target, *arguments: str) -> bytes:
    """Run the hand-over program on ``target`` and return what it printed; raises `VirtrootError` when it refuses."""
    # Sent along, not installed: the program on the target is then always this version's. Isolated, so that no module
    # comes from the current directory, which may be a guest's.
    done = target.run([target.python, "-I", "-", *arguments], stdin=_PROGRAM.read_bytes(), check=False)
    if done.returncode:
        reason = done.complaint.splitlines()[-1].removeprefix("virtroot: ") if done.complaint else "no reason given"
        raise VirtrootError(
            f"refused to touch the guest's root: {reason}",
            "the path was made or changed inside the guest; look at it with ls -l, then mend it or remove the guest",
        )
    return done.stdout


def hand_over(target: Target, root: str, directory: str, kernel: str, initrd: str) -> None:
    """Copy ``kernel`` and ``initrd`` (paths inside ``root``) to ``directory`` on the target, mode 0644.

    ``initrd`` is empty where the guest has none.
    """
    run(target, "--hand-over", root, directory, kernel, *filter(None, [initrd]))


def write(target: Target, root: str, path: str, mode: int, content: str) -> None:
    """Write the file ``path`` in a guest's root, never through a link out of it."""
    run(target, "--write", root, path, f"{mode:o}", content)


def read(target: Target, root: str, path: str) -> bytes:
    """Return a small file of a guest's root."""
    return run(target, "--read", root, path)


def make_directory(target: Target, root: str, path: str) -> None:
    """Make the directory ``path`` in a guest's root where it is missing, never through a link out of it."""
    run(target, "--directory", root, path)


def wrapper() -> bytes:
    """Return the wrapper of virtiofsd: a shell script."""
    return _PROGRAM.with_name("virtiofsd").read_bytes()


def install_hook(target: Target) -> bool:
    """Put libvirt's hook in place, so that a start by virsh or at boot hands over as well; say whether it is new."""
    return _put(target, HOOK, hook())


def install_wrapper(target: Target) -> None:
    """Put the wrapper of virtiofsd in place where it is not this version's."""
    _put(target, WRAPPER, wrapper())


def _put(target: Target, path: str, content: bytes) -> bool:
    if target.run(["cmp", "-s", "-", path], stdin=content, check=False).returncode == 0:
        return False
    script = (
        'mkdir -p "${1%/*}"; partial=$(mktemp "${1%/*}/../.virtroot.XXXXXX"); '
        'cat > "$partial"; chmod 755 "$partial"; mv -T "$partial" "$1"'
    )
    target.run(["sh", "-ec", f"umask 022; {script}", "put", path], stdin=content)
    return True
