"""A machine and a guest without faults, as the doctor's programs and virsh describe them."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import create_autospec

from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place
from pipelines.target.target import Target
from tests.support.guests import make_guest

POOL = "/var/lib/libvirt/filesystems"
WEB = "11111111-1111-4111-8111-111111111111"

DIRECTORY = {
    "directory": True,
    "mode": 0o700,
    "uid": 0,
    "changed": 1.0,
    "kind": "ext4",
    "options": ["rw"],
    "free": 8 << 30,
    "size": 16 << 30,
    "free_inodes": 1 << 20,
    "inodes": 1 << 20,
    "entries": [["root.web", True]],
    "closed_above": "",
}

SEEN = {
    "user": 0,
    "programs": {name: f"/usr/bin/{name}" for name in ("python3", "tar", "zstd", "flock", "bwrap")},
    "openat2": True,
    "boot_file_mode": 0o600,
    "daemons": [],
    "virtiofsds": [
        {"pid": 1, "arguments": ["-o", f"source={POOL}/root.web,xattr"], "files": 1000000, "most": 1000000, "open": 9}
    ],
    "descriptions": [{"path": "/a.json", "binary": "/usr/libexec/virtiofsd", "runs": True}],
    "security": {"apparmor": False, "selinux": "", "profiles": {}},
    "files": {},
    "directories": {POOL: DIRECTORY, place.BOOT: {**DIRECTORY, "mode": 0o711, "entries": []}},
    "held": [],
    "mounts": [],
    "guests": {
        "web": {
            "directory": True,
            "mode": 0o755,
            "uid": 0,
            "layers": False,
            "boot": 0o711,
            "files": {"kernel": 0o600, "initrd": None},
            "fstab": "root / virtiofs defaults 0 0\n",
            "usr": True,
            "kernel": {"refused": "", "same": True},
            "shares": {},
            "release": "6.12.1",
        }
    },
}

#: The wrapper of virtiofsd that the guest uses.
ACL_WRAPPER = Wrapper(acl=True).path

BINARY = f'<binary path="{ACL_WRAPPER}" xattr="on"/>'

DEFINITION = f"""<domain><name>web</name><metadata><v:guest xmlns:v="urn:virtroot:1"><v:artifact>a/1</v:artifact>
<v:root>{POOL}/root.web</v:root><v:kernel>vmlinuz</v:kernel></v:guest></metadata>
<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>
<os><kernel>{place.boot("web")}/kernel</kernel><cmdline>root=root rootfstype=virtiofs rw</cmdline></os>
<devices><filesystem><driver type="virtiofs"/>{BINARY}<source dir="{POOL}/root.web"/><target dir="root"/></filesystem>
</devices>
</domain>"""


def make_sound_guest(**changed: Any) -> Guest:
    """Return the guest; ``changed`` are fields of `Guest`."""
    hypervisor = Hypervisor(create_autospec(Target))
    return make_guest(hypervisor, artifact="a/1", **{"uuid": WEB, "root": f"{POOL}/root.web", **changed})


def make_guest_facts(**changed: Any) -> dict[str, Any]:
    """Return the facts of the guest, with some of them changed."""
    return {**cast("dict[str, Any]", SEEN["guests"])["web"], **changed}


def make_facts(**changed: Any) -> dict[str, Any]:
    """Return the facts of the machine, with some of them changed."""
    return {**SEEN, **changed}
