"""Text that people and libvirt read, compared whole; `pytest tests/golden --regenerate` writes the files anew."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from pipelines.builder import inputs
from pipelines.guest.domain import Domain, domain_xml
from pipelines.guest.shares import Shared
from pipelines.libvirt.wrappers import Wrapper
from pipelines.recipe.plan import as_text

FILES = Path(__file__).parent / "files"

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
        "shares": (Shared("data", "/srv/a <b>"), Shared("look", "/srv/look", readonly=True)),
    },
    "no-initramfs": {"kvm": True, "network": "user", "cache": "auto", "initrd": ""},
}
PLANS = {
    "debian": {},
    "debian-bookworm-mmdebstrap": {"release": "bookworm", "bootstrap": "mmdebstrap"},
    "debian-dracut": {"generator": "dracut"},
    "debian-none": {"generator": "none"},
    "arch": {},
    "arch-booster": {"generator": "booster"},
    "arch-dracut": {"generator": "dracut"},
    "arch-none": {"generator": "none"},
}


def domain(name: str) -> str:
    return domain_xml(
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


def compare(path: Path, text: str, regenerate: bool) -> None:
    if regenerate:
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_domain(name: str, request: pytest.FixtureRequest) -> None:
    compare(FILES / f"domain-{name}.xml", domain(name), request.config.getoption("--regenerate"))


@pytest.mark.parametrize("name", sorted(PLANS))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    text = as_text(inputs.find(name.partition("-")[0], overrides=PLANS[name]).plan) + "\n"
    compare(FILES / f"plan-{name}.txt", text, request.config.getoption("--regenerate"))
