from __future__ import annotations

import os
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from pipelines.guest.domain import Domain, domain_xml
from pipelines.libvirt import handover
from pipelines.libvirt.handover import Refused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a kernel behind a relative link and an initramfs, and a victim outside."""
    root = tmp_path / "root.web"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / "vmlinuz-6").write_bytes(b"kernel")
    (root / "boot" / "initrd-6").write_bytes(b"initrd")
    (root / "vmlinuz").symlink_to("boot/vmlinuz-6")
    (root / "initrd.img").symlink_to("boot/initrd-6")
    (tmp_path / "victim").write_bytes(b"secret")
    return root


def plant_absolute(path: Path) -> None:
    path.symlink_to(path.parent.parent / "victim")


def plant_climbing(path: Path) -> None:
    path.symlink_to("../victim")


def plant_loop(path: Path) -> None:
    path.symlink_to("vmlinuz")


def plant_absolute_into_the_root(path: Path) -> None:
    path.symlink_to(path.parent / "boot" / "vmlinuz-6")


def plant_through_a_directory_link(path: Path) -> None:
    (path.parent / "out").symlink_to("..")
    path.symlink_to("out/victim")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path) -> None:
    path.mkdir()


def plant_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def plant_nothing(path: Path) -> None:
    assert not path.exists()


PLANTS = [value for name, value in sorted(globals().items()) if name.startswith("plant_")]


def hand_over(root: Path, destination: Path) -> None:
    handover.hand_over(str(root), str(destination), "vmlinuz", "initrd.img")


def test_copies_are_the_hosts_own_and_readable_by_qemu(root: Path, tmp_path: Path) -> None:
    (root / "boot" / "initrd-6").chmod(0o600)
    hand_over(root, tmp_path / "boot")
    for name, content in (("kernel", b"kernel"), ("initrd", b"initrd")):
        copy = tmp_path / "boot" / name
        assert copy.read_bytes() == content
        assert stat.S_IMODE(copy.lstat().st_mode) == 0o644
        assert stat.S_ISREG(copy.lstat().st_mode)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_path_is_refused_and_the_old_copy_stays(root: Path, tmp_path: Path, plant, name: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    hand_over(root, tmp_path / "boot")
    (root / name).unlink()
    plant(root / name)
    if plant is plant_loop and name != "vmlinuz":
        (root / "vmlinuz").unlink()
        (root / "vmlinuz").symlink_to(name)
    with pytest.raises(Refused):
        hand_over(root, tmp_path / "boot")
    assert (tmp_path / "boot" / "kernel").read_bytes() == b"kernel"
    assert (tmp_path / "boot" / "initrd").read_bytes() == b"initrd"
    assert (tmp_path / "victim").read_bytes() == b"secret"


def test_a_link_waiting_at_the_copys_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "kernel.partial").symlink_to(tmp_path / "victim")
    hand_over(root, tmp_path / "boot")
    assert (tmp_path / "victim").read_bytes() == b"secret"
    assert (tmp_path / "boot" / "kernel").read_bytes() == b"kernel"


def test_write_makes_directories_inside_the_root(root: Path) -> None:
    handover.write(str(root), "root/.ssh/authorized_keys", 0o600, b"key\n")
    written = root / "root" / ".ssh" / "authorized_keys"
    assert written.read_bytes() == b"key\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_write_replaces_a_link_and_leaves_what_it_names(root: Path, tmp_path: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "hostname").symlink_to(tmp_path / "victim")
    handover.write(str(root), "etc/hostname", 0o644, b"web\n")
    assert (root / "etc" / "hostname").read_bytes() == b"web\n"
    assert (tmp_path / "victim").read_bytes() == b"secret"


@pytest.mark.parametrize("link", ["..", "/", "nowhere"])
def test_write_refuses_a_directory_that_is_a_link_out_or_to_nowhere(root: Path, tmp_path: Path, link: str) -> None:
    (root / "etc").symlink_to(link)
    with pytest.raises(Refused):
        handover.write(str(root), "etc/hostname", 0o644, b"web\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.web", "victim"]


def test_write_follows_a_link_that_stays_inside(root: Path) -> None:
    (root / "usr" / "etc").mkdir(parents=True)
    (root / "etc").symlink_to("usr/etc")
    handover.write(str(root), "etc/hostname", 0o644, b"web\n")
    assert (root / "usr" / "etc" / "hostname").read_bytes() == b"web\n"


def domain(root: Path, boot: Path) -> str:
    return domain_xml(
        Domain(
            name="web",
            uuid=uuid4(),
            artifact="a/b",
            root=str(root),
            boot=str(boot),
            kernel="vmlinuz",
            initrd="initrd.img",
            cmdline="root=root",
            memory=1 << 30,
            vcpus=1,
            network="none",
            cache="auto",
            kvm=False,
        )
    )


def test_hook_hands_over_what_the_domain_names(root: Path, tmp_path: Path) -> None:
    handover.hook(domain(root, tmp_path / "boot"))
    assert (tmp_path / "boot" / "kernel").read_bytes() == b"kernel"


def test_hook_refuses_a_planted_kernel(root: Path, tmp_path: Path) -> None:
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    with pytest.raises(Refused, match="leaves the root"):
        handover.hook(domain(root, tmp_path / "boot"))


def test_hook_leaves_other_domains_alone(tmp_path: Path) -> None:
    handover.hook("<domain><os><kernel>/x/kernel</kernel></os></domain>")
    assert list(tmp_path.iterdir()) == []
