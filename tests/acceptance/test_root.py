"""The installed root of one guest, seen from libvirt's machine."""

from __future__ import annotations

import stat
from uuid import UUID

import pytest
from testinfra.host import Host

from pipelines.artifact.manifest import Manifest
from pipelines.guest.guest import Guest
from pipelines.pool.pool import MARK
from pipelines.text import split_fields, trim
from tests.acceptance import expectations
from tests.acceptance.conftest import Drift

pytestmark = pytest.mark.root


def test_packages_are_whole(tree: Host, manifest: Manifest, drift: Drift) -> None:
    """People upgrade packages in their guests: that they are others than the manifest's is told, and no fault."""
    tree.check_output(expectations.packages_check(manifest))
    for change in expectations.drifts(expectations.packages(tree, manifest), manifest):
        drift(change)


def test_fstab_mounts_the_root_over_virtiofs(tree: Host, guest: Guest, drift: Drift) -> None:
    for mounted in expectations.mounts_its_devices(tree.file("/etc/fstab").content_string, guest):
        drift(f"mounts {mounted}")


def test_no_boot_loader(tree: Host, manifest: Manifest) -> None:
    expectations.has_no_boot_loader(expectations.packages(tree, manifest), files=tree.file("/boot/grub").exists)


def test_machine_id_is_the_domains(tree: Host, guest: Guest) -> None:
    assert trim(tree.file("/etc/machine-id").content_string) == UUID(guest.uuid).hex


def test_kernel_is_handed_over_as_a_copy(guest: Guest) -> None:
    domain = guest.hypervisor.xml(guest.uuid)
    assert domain is not None
    elements = ("os/kernel", "os/initrd") if guest.source.initrd else ("os/kernel",)
    assert (domain.find("os/initrd") is not None) == bool(guest.source.initrd)
    for element in elements:
        path = domain.findtext(element) or ""
        assert path.startswith(f"{guest.boot}/")
        assert not path.startswith(guest.root)
        mode = int(guest.hypervisor.target.run(["stat", "--format=%f", path]).text, 16)
        assert stat.S_ISREG(mode)
        # libvirt gives it to QEMU's user while the guest runs; others read it only where libvirt was told not to.
        assert stat.S_IMODE(mode) in (0o600, 0o644)


def test_the_root_is_a_directory_of_the_guests_own(guest: Guest) -> None:
    kind, owner, mode = guest.target.run(["stat", "--format=%F:%U:%a", guest.root]).text.split(":")
    assert kind == "directory"
    expectations.is_a_directory_for_all(owner, mode)
    assert guest.hypervisor.find_domains_using(guest.root, besides=guest.uuid) == []
    # In the pool's own directory, where libvirt finds it and no other guest's root holds it.
    assert guest.root.rpartition("/")[2].startswith("root.")


def test_pool_is_closed_to_other_users(guest: Guest) -> None:
    pool = guest.root.rpartition("/")[0]
    mode, owner = split_fields(guest.target.run(["stat", "--format=%a %U", pool]).text)
    # A pool of the user's own may be open to passers-by, of which install warns; that others write there is too much.
    closed = 0o077 if guest.target.run(["test", "-e", f"{pool}/{MARK}"], check=False).returncode == 0 else 0o022
    assert (int(mode, 8) & closed, owner) == (0, "root")
