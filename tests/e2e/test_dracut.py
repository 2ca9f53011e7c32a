"""Debian with dracut: it boots, an upgraded kernel gets its image under the same name, and builds are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot, named
from tests.support.comparison import gives_the_same_bytes_again

ROOT = "/var/lib/libvirt/filesystems/root.drac"


@pytest.fixture
def path(recipe: Callable[..., Path]) -> Path:
    return recipe(named("dracut"), generator="dracut", bootstrap="mmdebstrap")


@pytest.mark.long
def test_debian_with_dracut_boots_and_follows_its_kernel(inv: Virtroot, path: Path) -> None:
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


@pytest.mark.long
def test_two_builds_of_one_plan_give_the_same_bytes(inv: Virtroot, path: Path, tmp_path: Path) -> None:
    gives_the_same_bytes_again(inv, path, tmp_path)
