"""Domains of all kinds, and their XML."""

from __future__ import annotations

from uuid import UUID

from pipelines.guest.domain import Domain, make_xml
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool.shares import Share

DOMAINS = {
    "kvm-default-network": {"kvm": True, "network": "default", "cache": "auto"},
    "emulated-user-network-cache-always": {"kvm": False, "network": "user", "cache": "always"},
    "mixed": {"kvm": True, "network": "none", "cache": "mixed"},
    "no-network": {"kvm": True, "network": "none", "cache": "none"},
    "overlayfs": {"kvm": False, "network": "user", "cache": "always", "wrapper": Wrapper(acl=True, overlayfs=True)},
    "without-acls": {"kvm": True, "network": "none", "cache": "mixed", "wrapper": Wrapper()},
    "shares": {
        "kvm": True,
        "network": "none",
        "cache": "always",
        "wrapper": Wrapper(acl=True, overlayfs=True, handles=True),
        "shares": (Share("data", "/srv/a <b>"), Share("look", "/srv/look", readonly=True)),
    },
    "no-initramfs": {"kvm": True, "network": "user", "cache": "auto", "initrd": ""},
}


def domain(name: str) -> str:
    return make_xml(
        Domain(
            name="web",
            uuid=UUID("5d4b1d6e-6e0c-4c58-9d7e-0e6f3b1f7a11"),
            artifact="debian/20260101T000000Z-0123456789ab",
            root="/var/lib/libvirt/filesystems/root.web",
            boot="/var/lib/libvirt/boot/virtroot.web",
            kernel="vmlinuz",
            cmdline="root=root rootfstype=virtiofs rw console=ttyS0",
            memory=2 << 30,
            vcpus=2,
            **{"initrd": "initrd.img", "wrapper": Wrapper(acl=True), **DOMAINS[name]},  # type: ignore[arg-type]
        )
    )
