"""Virtroot's own files on libvirt's host: libvirt's hook, and the wrapper of virtiofsd."""

from __future__ import annotations

from pathlib import Path

from pipelines.libvirt import wrappers
from pipelines.target import payload_call
from pipelines.target.target import Target

_PAYLOAD = Path(payload_call.__file__).with_name("payload")

#: libvirt runs each file in this directory as a hook of QEMU domains.
HOOK = "/etc/libvirt/hooks/qemu.d/virtroot"

#: The wrapper of virtiofsd by its name in former versions, for guests with overlayfs; see `wrappers` for the others.
WRAPPER = wrappers.FORMER

_DIFFERS = '[ -e "$1" ] && ! cmp -s - "$1"'

_IS_CURRENT = '[ -x "$1" ] && cmp -s - "$1"'

# The input ends early if its sender is killed, so its size is compared.
_WRITE = """
umask 022
mkdir -p "${1%/*}"
partial=$(mktemp "${1%/*}/../.virtroot.XXXXXX")
cat > "$partial"
[ "$(stat --format=%s "$partial")" = "$2" ]
chmod 755 "$partial"
sync "$partial"
mv -T "$partial" "$1"
sync "${1%/*}"
"""


def hook() -> bytes:
    """Return libvirt's hook: a shell script, and the payload as the zip file that it runs.

    It is one file, so that it is replaced in one step and is there when libvirt starts guests at boot.
    """
    return (_PAYLOAD / "hook.sh").read_bytes() + payload_call.archive()


def wrapper() -> bytes:
    """Return the wrapper of virtiofsd, a shell script."""
    return (_PAYLOAD / "virtiofsd.sh").read_bytes()


def trial() -> bytes:
    """Return the shell script that starts virtiofsd to see whether it can serve."""
    return (_PAYLOAD / "trial.sh").read_bytes()


def install_hook(target: Target) -> bool:
    """Install libvirt's hook, so that a start by virsh or at boot copies the kernel too; say whether it is new."""
    return _write(target, HOOK, hook())


def update_hook(target: Target) -> None:
    """Replace the hook of another version by this version's. If there is none, none is made."""
    if target.run(["sh", "-c", _DIFFERS, "differs", HOOK], stdin=hook(), check=False).returncode == 0:
        install_hook(target)


def install_wrapper(target: Target, path: str = "") -> None:
    """Write the wrapper of virtiofsd to ``path``, by default `WRAPPER`, if it is not this version's."""
    _write(target, path or WRAPPER, wrapper())


def _write(target: Target, path: str, content: bytes) -> bool:
    """Write an executable file in one step; say whether it was not there before."""
    if target.run(["sh", "-c", _IS_CURRENT, "current", path], stdin=content, check=False).returncode == 0:
        return False
    target.run(["sh", "-ec", _WRITE, "write", path, str(len(content))], stdin=content)
    return True
