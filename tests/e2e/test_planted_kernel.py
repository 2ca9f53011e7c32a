"""A guest that turns its kernel or /usr into a link to what is the host's: install and every way to start refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.guest.guest import get
from pipelines.host import process
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import place
from tests.conftest import Virtroot

VICTIM = "/etc/victim"
ROOT = "/var/lib/libvirt/filesystems/root.planted"
#: Other files that a guest can plant are in tests/support/planted.py. This test asks each task that copies one.
LINKS = {
    "climbing": "../../../../../../etc/victim",
    "dangling": "gone",
}
PLANT = 'cd "$1"; ln -sfn "$2" boot/vmlinuz-loop; ln -sfn boot/vmlinuz-loop vmlinuz'


@pytest.fixture(scope="module")
def hypervisor(inv: Virtroot) -> Hypervisor:
    return connect(inv.settings)


@pytest.fixture(scope="module")
def installed(inv: Virtroot, trixie: Path) -> Iterator[None]:
    inv("install", "--name", "planted", "--artifact", str(trixie), "--cache", "mixed")
    yield
    inv("remove", "--name", "planted", "--yes")


@pytest.fixture(autouse=True)
def victim(hypervisor: Hypervisor) -> Iterator[None]:
    """A file of the host that must keep owner, mode and content."""
    hypervisor.target.run(["sh", "-ec", f"echo secret > {VICTIM}; chown daemon:daemon {VICTIM}; chmod 600 {VICTIM}"])
    yield
    seen = hypervisor.target.run(["sh", "-c", f"stat -c '%U:%G %a' {VICTIM}; cat {VICTIM}; rm {VICTIM}"]).text
    assert seen == "daemon:daemon 600\nsecret"


@pytest.mark.parametrize("link", sorted(LINKS))
def test_start_refuses(inv: Virtroot, installed: None, hypervisor: Hypervisor, link: str) -> None:
    before = hypervisor.target.run(["sha256sum", f"{place.boot('planted')}/kernel"]).text
    hypervisor.target.run(["sh", "-ec", PLANT, "plant", ROOT, LINKS[link]])
    said = inv("start", "--name", "planted", status=2).stderr
    assert "refused to touch the guest's root: vmlinuz: " in said
    if link != "dangling":
        assert "error: a path in the guest's root leads out of it, or has the wrong type: refused" in said
        assert "./inv help refused-path" in said
    assert get(hypervisor, "planted").state == "shut off"
    assert hypervisor.target.run(["sha256sum", f"{place.boot('planted')}/kernel"]).text == before


@pytest.mark.parametrize("link", sorted(LINKS))
def test_libvirts_own_start_refuses(installed: None, hypervisor: Hypervisor, link: str) -> None:
    hypervisor.target.run(["sh", "-ec", PLANT, "plant", ROOT, LINKS[link]])
    started = hypervisor.virsh("start", "planted", check=False)
    assert started.returncode != 0
    assert "virtroot: vmlinuz: " in started.complaint
    assert get(hypervisor, "planted").state == "shut off"


@pytest.mark.parametrize("what", ["ln -s ../../../../../../etc usr"])
def test_a_usr_that_is_no_directory_is_served_to_nobody(
    inv: Virtroot, installed: None, hypervisor: Hypervisor, what: str
) -> None:
    hypervisor.target.run(["sh", "-ec", f'cd "$1"; mv usr away; {what}', "plant", ROOT])
    try:
        said = inv("start", "--name", "planted", status=2).stderr
        started = hypervisor.virsh("start", "planted", check=False)
        assert get(hypervisor, "planted").state == "shut off"
    finally:
        hypervisor.target.run(["sh", "-ec", 'cd "$1"; rm usr; mv away usr', "mend", ROOT])
    assert "usr: not a directory of the root itself" in said
    assert started.returncode != 0
    assert "virtroot: usr: not a directory of the root itself" in started.complaint


@pytest.mark.parametrize("link", sorted(LINKS))
def test_install_refuses(inv: Virtroot, trixie: Path, hypervisor: Hypervisor, tmp_path: Path, link: str) -> None:
    artifact = tampered(trixie, tmp_path, LINKS[link])
    said = inv("install", "--name", "trojan", "--artifact", str(artifact), status=2).stderr
    assert "refused to touch the guest's root: vmlinuz: " in said
    assert not hypervisor.is_defined("trojan")
    left = hypervisor.target.run(
        ["find", "/var/lib/libvirt/filesystems", place.BOOT, "-maxdepth", "1", "-name", "*trojan*"]
    )
    assert left.text == ""


def tampered(artifact: Path, directory: Path, link: str) -> Path:
    """Make an artifact whose tarball has just enough of a root, with the link planted, and the checksum that fits."""
    root = directory / "root"
    for part in ("boot", "etc", "root"):
        (root / part).mkdir(parents=True)
    (root / "initrd.img").write_bytes(b"initrd")
    process.run(["sh", "-ec", PLANT, "plant", str(root), link])
    tarball = process.run(archive.pack_argv(str(root), 0)).stdout
    made = directory / "artifact"
    made.mkdir()
    Artifact(made).tarball.write_bytes(tarball)
    manifest = json.loads((artifact / "manifest.json").read_text())
    digest = process.run(["sha256sum", str(Artifact(made).tarball)]).text.split()[0]
    manifest["rootfs"]["sha256"] = digest
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made
