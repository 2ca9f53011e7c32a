"""Domains of all kinds, and their XML."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from pipelines.artifact.build_id import BuildId
from pipelines.guest.domain import Domain, make_xml
from pipelines.guest.root_source import RootSource
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool.shares import Share
from tests.support.guests import make_source

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
    values: dict[str, object] = dict(DOMAINS[name])
    initrd = str(values.pop("initrd", "initrd.img"))
    return make_xml(
        Domain(
            name="web",
            uuid=UUID("5d4b1d6e-6e0c-4c58-9d7e-0e6f3b1f7a11"),
            source=RootSource(
                BuildId("debian/20260101T000000Z-0123456789ab"),
                "vmlinuz",
                initrd,
                "root=root rootfstype=virtiofs rw console=ttyS0",
            ),
            root="/var/lib/libvirt/filesystems/root.web",
            boot="/var/lib/libvirt/boot/virtroot.web",
            memory=2 << 30,
            vcpus=2,
            **{"wrapper": Wrapper(acl=True), **values},  # type: ignore[arg-type]
        )
    )


def make_definition(
    root: Path, boot: Path, initrd: str = "initrd.img", *, cache: str = "auto", shares: tuple[Share, ...] = ()
) -> str:
    """Return the definition of the guest web, with the given root and boot directory."""
    return make_xml(
        Domain(
            name="web",
            uuid=uuid4(),
            source=make_source("a/b", initrd=initrd),
            root=str(root),
            boot=str(boot),
            memory=1 << 30,
            vcpus=1,
            network="none",
            cache=cache,
            kvm=False,
            shares=shares,
        )
    )
