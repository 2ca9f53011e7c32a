"""A root with a kernel, a file outside of it, and what a guest can plant in the place of a file or a directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


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


def plant_link_inside(path: Path) -> None:
    """Plant a link that stays in the root. It can lead elsewhere later, so no directory may be one."""
    path.symlink_to("etc")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path) -> None:
    path.mkdir()


def plant_file(path: Path) -> None:
    path.write_text("not a directory")


def plant_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def plant_nothing(path: Path) -> None:
    assert not path.exists()


#: What a root may not have in the place of a kernel or an initramfs.
NOT_A_FILE = (
    plant_absolute,
    plant_absolute_into_the_root,
    plant_climbing,
    plant_device,
    plant_directory,
    plant_fifo,
    plant_loop,
    plant_nothing,
    plant_through_a_directory_link,
)

#: What a root may not have in the place of a directory.
NOT_A_DIRECTORY = (plant_absolute, plant_climbing, plant_link_inside, plant_file, plant_nothing)
