"""Debian without an initramfs: the kernel mounts the root, and its upgrades arrive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.guest.guest import get
from pipelines.libvirt.connect import connect
from pipelines.pool.place import boot, console_log
from tests.conftest import Virtroot, named

# What still shows it in each run: guests of other tests boot without an initramfs, and on Arch one lives through an
# upgrade of its kernel.
pytestmark = pytest.mark.long

ROOT = "/var/lib/libvirt/filesystems/root.bare"


def test_the_kernel_mounts_the_root_and_its_upgrades_arrive(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe(named("none"), generator="none", bootstrap="mmdebstrap", cache="mixed")
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
    # The links to an initramfs that the package makes all the same lead nowhere, and nobody follows them.
    get(connect(inv.settings), "bare").copy_kernel()
    kept = set(target.run(["ls", boot("bare")]).text.split())
    assert "kernel" in kept
    assert not [name for name in kept if name.startswith("init")]
    inv("remove", "--name", "bare", "--yes")
