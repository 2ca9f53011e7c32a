"""Debian without an initramfs: the kernel mounts the root, upgrades arrive, and a kernel that cannot is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.artifact.manifest import load
from pipelines.guest.place import boot, console_log
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot

ROOT = "/var/lib/libvirt/filesystems/root.bare"


def test_the_kernel_mounts_the_root_and_its_upgrades_arrive(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe("e2e-none", generator="none", bootstrap="mmdebstrap")
    artifact = Path(inv("build", "--recipe", str(path)).stdout.strip())
    manifest = load(artifact / "manifest.json")
    assert (manifest.generator, manifest.boot.initrd) == ("none", "")
    packages = {package.name for package in manifest.packages}
    assert "virtroot-no-initramfs" in packages
    assert not {"initramfs-tools", "initramfs-tools-core", "dracut", "busybox"} & packages

    inv("verify", "--recipe", str(path))
    inv("install", "--name", "bare", "--artifact", str(artifact))
    inv("verify", "--name", "bare")
    inv("verify", "--name", "bare", "--boot")
    target = connect(inv.settings).target
    assert "VFS: Mounted root (virtiofs filesystem)" in target.run(["cat", console_log("bare")]).text

    # As a kernel upgrade in the guest does: the package's own script renews the link, and nothing asks for a generator.
    target.run(["rm", f"{ROOT}/{manifest.boot.kernel}"])
    target.run(["chroot", ROOT, "dpkg-reconfigure", "-fnoninteractive", f"linux-image-{manifest.kernel_version}"])
    assert target.run(["chroot", ROOT, "dpkg", "--audit"]).text == ""
    assert target.run(["find", f"{ROOT}/boot", "-name", "initrd*"]).text == ""
    inv("start", "--name", "bare")
    assert sorted(target.run(["ls", boot("bare")]).text.split()) == ["kernel", "manifest.json"]
    inv("stop", "--name", "bare")
    inv("remove", "--name", "bare", "--yes")


def test_a_kernel_that_has_virtiofs_as_a_module_is_refused(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe("e2e-none-bookworm", generator="none", bootstrap="mmdebstrap", release="bookworm")
    said = inv("build", "--recipe", str(path), status=2).stderr
    assert "error: the root breaks the rule virtiofs-modules: without an initramfs, virtiofs and virtio_pci" in said
    assert "use another generator" in said
    assert [entry.name for entry in (inv.output / "e2e-none-bookworm").iterdir() if entry.name != ".lock"] == ["failed"]
