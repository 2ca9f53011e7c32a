"""Debian with dracut: it boots, and an upgraded kernel gets its image under the same name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.artifact.manifest import load
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot

ROOT = "/var/lib/libvirt/filesystems/root.drac"


def test_debian_with_dracut_boots_and_follows_its_kernel(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe("e2e-dracut", generator="dracut", bootstrap="mmdebstrap")
    artifact = Path(inv("build", "--recipe", str(path)).stdout.strip())
    manifest = load(artifact / "manifest.json")
    assert manifest.generator == "dracut"
    assert "initramfs-tools" not in {package.name for package in manifest.packages}

    inv("install", "--name", "drac", "--artifact", str(artifact))
    inv("verify", "--name", "drac", "--boot")

    # As a kernel upgrade in the guest does: the package's own script, with dracut's hook, makes the image anew.
    target = connect(inv.settings).target
    image = f"{ROOT}/{manifest.boot.initrd}"
    target.run(["sh", "-ec", 'rm "$(dirname "$1")/$(readlink "$1")"; test ! -e "$1"', "lose", image])
    target.run(["chroot", ROOT, "dpkg-reconfigure", "-fnoninteractive", f"linux-image-{manifest.kernel_version}"])
    target.run(["test", "-s", image])
    inv("remove", "--name", "drac", "--yes")
