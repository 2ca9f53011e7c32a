"""Debian with booster, whose programs come in the overlay: it boots, follows its kernel, and says what it misses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.libvirt.connect import connect
from tests import mirror
from tests.conftest import Virtroot, named
from tests.support.comparison import gives_the_same_bytes_again
from tests.support.definitions import change

Recipe = Callable[..., Path]


def placeholder(overlay: Path) -> None:
    shutil.copytree(mirror.STAND_IN_BOOSTER / "usr", overlay / "usr")


def real(overlay: Path) -> None:
    package = os.environ.get(mirror.BOOSTER)
    if not package:
        pytest.skip(f"booster is not among Debian's packages; {mirror.BOOSTER} names no package of it")
    overlay.mkdir()
    programs = ["usr/bin/booster", "usr/lib/booster/init"]
    subprocess.run(
        ["tar", "--extract", "--zstd", "--file", package, "--directory", str(overlay), *programs], check=True
    )


def with_booster(recipe: Recipe, programs: Callable[[Path], None], release: str) -> Path:
    """Write a recipe whose overlay has booster's programs."""
    overlay = f"{programs.__name__}-{release}"
    path = recipe(named("booster"), f"overlay: {overlay}", generator="booster", release=release, cache="mixed")
    if not (path.parent / overlay).exists():
        programs(path.parent / overlay)
    path.write_text(path.read_text().replace("packages: [", "packages: [cpio, "))
    return path


@pytest.mark.long
@pytest.mark.parametrize(("programs", "release"), [(placeholder, "bookworm"), (real, "bookworm"), (real, "trixie")])
def test_debian_with_booster_boots_and_follows_its_kernel(
    inv: Virtroot, recipe: Recipe, programs: Callable[[Path], None], release: str
) -> None:
    # bookworm has both modules outside its kernel.
    path = with_booster(recipe, programs, release)
    artifact = Path(inv("build", "--recipe", str(path)).stdout.strip())
    manifest = load(artifact / "manifest.json")
    packages = {package.name for package in manifest.packages}
    assert {"virtroot-booster", "busybox-static"} <= packages
    assert "initramfs-tools" not in packages

    inv("install", "--name", "boost", "--artifact", str(artifact))
    inv("verify", "--name", "boost", "--boot")
    hypervisor = connect(inv.settings)
    console = hypervisor.target.run(["cat", "/var/log/libvirt/qemu/boost@console.log"]).text
    assert "virtroot: mounted the root 'root' from virtiofs" in console

    # As a kernel upgrade in the guest does: the kernel package's own script calls the hook.
    root = "/var/lib/libvirt/filesystems/root.boost"
    image = f"{root}/{manifest.boot.initrd}"
    hypervisor.target.run(["sh", "-ec", 'rm "$(dirname "$1")/$(readlink "$1")"; test ! -e "$1"', "lose", image])
    kernel = f"linux-image-{manifest.kernel_version}"
    hypervisor.target.run(["chroot", root, "dpkg-reconfigure", "-fnoninteractive", kernel])
    hypervisor.target.run(["test", "-s", image])

    if programs is placeholder:
        change(hypervisor, "boost", "rootfstype=virtiofs", "rootfstype=ext4")
        assert "own init of 1, , (initramfs)" in inv("start", "--name", "boost", status=2).stderr
        inv("stop", "--name", "boost", "--force")
        change(hypervisor, "boost", "rootfstype=ext4", "rootfstype=virtiofs")

    change(hypervisor, "boost", "<target dir='root'/>", "<target dir='other'/>")
    said = inv("start", "--name", "boost", status=2).stderr
    assert "virtroot: no virtiofs root with the tag 'root' could be mounted" in said
    assert "its console says '(initramfs)'" in said
    # Kernels before 6.9 do not tell the tags.
    tags = re.search(r"virtroot: tags there are: (.*)", said)
    assert (tags is not None) == (release == "trixie")
    # The kernel lists them in any order, and cache: mixed has one more.
    assert tags is None or {"other", "usr"} <= {*re.findall(r"\w+", tags[1])}
    inv("stop", "--name", "boost", "--force")
    inv("remove", "--name", "boost", "--yes")


@pytest.mark.long
def test_two_builds_of_one_plan_give_the_same_bytes(inv: Virtroot, recipe: Recipe, tmp_path: Path) -> None:
    """As it was built last; debootstrap is its bootstrapper."""
    programs, release = (real, "trixie") if os.environ.get(mirror.BOOSTER) else (placeholder, "bookworm")
    gives_the_same_bytes_again(inv, with_booster(recipe, programs, release), tmp_path)
