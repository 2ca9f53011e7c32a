"""The kernel's hand-over: what is in a guest's root is resolved there and copied to a directory of the host's own."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host.target import Target
from pipelines.libvirt import handover

#: The program that runs beside libvirt; also libvirt's hook.
PROGRAM = Path(handover.__file__)

_HOOK = "/etc/libvirt/hooks/qemu.d/virtroot"


def beside_libvirt(target: Target, *arguments: str) -> bytes:
    """Run the hand-over program on ``target`` and return what it printed; raises `VirtrootError` when it refuses."""
    # Sent along, not installed: the program on the target is then always this version's.
    done = target.run([target.python, "-", *arguments], stdin=PROGRAM.read_bytes(), check=False)
    if done.returncode:
        reason = done.complaint.splitlines()[-1].removeprefix("virtroot: ") if done.complaint else "no reason given"
        raise VirtrootError(
            f"refused to touch the guest's root: {reason}",
            "the path was made or changed inside the guest; look at it with ls -l, then mend it or remove the guest",
        )
    return done.stdout


def hand_over(target: Target, root: str, directory: str, kernel: str, initrd: str) -> None:
    """Copy ``kernel`` and ``initrd`` (paths inside ``root``) to ``directory`` on the target, mode 0644."""
    beside_libvirt(target, "--hand-over", root, directory, kernel, initrd)


def install_hook(target: Target) -> bool:
    """Put libvirt's hook in place, so that a start by virsh or at boot hands over as well; say whether it is new."""
    program = PROGRAM.read_bytes()
    if target.run(["cmp", "-s", "-", _HOOK], stdin=program, check=False).returncode == 0:
        return False
    script = 'mkdir -p "${1%/*}" && cat > "$1.partial" && chmod 755 "$1.partial" && mv "$1.partial" "$1"'
    target.run(["sh", "-ec", script, "hook", _HOOK], stdin=program)
    return True
