"""Copies of a root's kernel and initramfs, and planted files in their places."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.target import programs
from pipelines.target.payload import exchange, guest_files, kernel_copy
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Local
from tests.support.planted import NOT_A_FILE, plant_loop, root

__all__ = ["root"]


def copy_boot_files(root: Path, destination: Path) -> None:
    kernel_copy.copy_kernel(str(root), str(destination), "vmlinuz", "initrd.img")


@pytest.mark.parametrize(
    ("conf", "mode"),
    [
        (None, 0o600),
        ("#dynamic_ownership = 0\n", 0o600),
        ("dynamic_ownership = 1\n", 0o600),
        ("dynamic_ownership = 0 # ours\n", 0o644),
        ("dynamic_ownership = 0\n dynamic_ownership=1\n", 0o600),
    ],
)
def test_copies_are_the_hosts_own_and_readable_by_qemu_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str | None, mode: int
) -> None:
    if conf is not None:
        (tmp_path / "qemu.conf").write_text(conf)
    monkeypatch.setattr(kernel_copy, "QEMU_CONF", str(tmp_path / "qemu.conf"))
    (root / "boot" / "vmlinuz-6").chmod(0o644)
    umask = os.umask(0)
    try:
        copy_boot_files(root, tmp_path / "virtroot.web")
        (tmp_path / "virtroot.web" / "manifest.json").touch(0o644)
        copy_boot_files(root, tmp_path / "virtroot.web")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "virtroot.web").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "virtroot.web/manifest.json").stat().st_mode) == 0o600
    for name, content in (("kernel", b"kernel"), ("initrd", b"initrd")):
        copy = tmp_path / "virtroot.web" / name
        assert copy.read_bytes() == content
        assert stat.S_IMODE(copy.lstat().st_mode) == mode
        assert stat.S_ISREG(copy.lstat().st_mode)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
@pytest.mark.parametrize("plant", NOT_A_FILE, ids=lambda plant: plant.__name__)
def test_a_planted_path_is_refused_and_the_old_copy_stays(root: Path, tmp_path: Path, plant, name: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    copy_boot_files(root, tmp_path / "virtroot.web")
    (root / name).unlink()
    plant(root / name)
    if plant is plant_loop and name != "vmlinuz":
        (root / "vmlinuz").unlink()
        (root / "vmlinuz").symlink_to(name)
    with pytest.raises(Refused):
        copy_boot_files(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert (tmp_path / "virtroot.web" / "initrd").read_bytes() == b"initrd"
    assert (tmp_path / "victim").read_bytes() == b"secret"


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != kernel_copy._LOCK)


def test_a_lock_of_another_process_is_an_error_after_a_timeout(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_boot_files(root, tmp_path / "virtroot.web")
    lock = tmp_path / kernel_copy._LOCK
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    monkeypatch.setattr(kernel_copy, "PATIENCE", 0.2)
    held = os.open(lock, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Refused, match="another process has locked it"):
        copy_boot_files(root, tmp_path / "virtroot.web")
    os.close(held)
    # Every user can lock a directory that all may enter, so that is not the lock.
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    copy_boot_files(root, tmp_path / "virtroot.web")
    os.close(held)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_an_oversized_file_is_refused_and_no_partial_copy_is_left(root: Path, tmp_path: Path, name: str) -> None:
    copy_boot_files(root, tmp_path / "virtroot.web")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    with (root / name).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused, match=f"{name}: has {1 << 40} bytes"):
        copy_boot_files(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_a_full_disk_leaves_the_old_copies(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_boot_files(root, tmp_path / "virtroot.web")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    copy = kernel_copy._copy_out

    def fails_at_the_second(root: int, path: str, destination: str) -> None:
        if destination.endswith("initrd"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(root, path, destination)

    monkeypatch.setattr(kernel_copy, "_copy_out", fails_at_the_second)
    with pytest.raises(OSError, match="No space"):
        copy_boot_files(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_both_copies_are_replaced_and_other_files_are_kept(root: Path, tmp_path: Path) -> None:
    boot = tmp_path / "virtroot.web"
    copy_boot_files(root, boot)
    (boot / "manifest.json").write_text("manifest")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    (root / "boot" / "initrd-6").write_bytes(b"new initrd")
    copy_boot_files(root, boot)
    assert {path.name: path.read_text() for path in boot.iterdir()} == {
        "kernel": "new kernel", "initrd": "new initrd", "manifest.json": "manifest"
    }  # fmt: skip
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_new_directories_have_their_modes_whatever_the_umask(root: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        copy_boot_files(root, tmp_path / "libvirt" / "virtroot.web")
        guest_files.write(str(root), "home/me/file", 0o644, [b""])
    finally:
        os.umask(before)
    for directory in (root / "home", root / "home" / "me"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755, directory
    for directory in (tmp_path / "libvirt", tmp_path / "libvirt" / "virtroot.web"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711, directory


def test_concurrent_copies_never_publish_a_short_kernel(root: Path, tmp_path: Path) -> None:
    (root / "boot" / "vmlinuz-6").write_bytes(b"k" * (8 << 20))
    boot, wrong = tmp_path / "virtroot.web", []
    with ThreadPoolExecutor(4) as pool:
        handed = [pool.submit(copy_boot_files, root, boot) for _ in range(24)]
        while not all(each.done() for each in handed):
            with suppress(FileNotFoundError):
                size = (boot / "kernel").stat().st_size
                wrong += [size] if size != 8 << 20 else []
        for each in handed:
            each.result()
    assert wrong == []
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_only_virtroots_own_directories_are_written_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "kernel").write_bytes(b"the host's")
    with pytest.raises(Refused, match="is not a boot directory"):
        copy_boot_files(root, tmp_path / "boot")
    assert (tmp_path / "boot" / "kernel").read_bytes() == b"the host's"


def test_an_old_initramfs_is_removed_where_directories_cannot_be_exchanged(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "virtroot.web"
    kernel_copy.copy_kernel(str(root), str(boot), "vmlinuz", "initrd.img")
    # With a flag that no kernel knows, the call fails as on a file system without exchanges.
    monkeypatch.setattr(exchange, "_RENAME_EXCHANGE", 1 << 30)
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    kernel_copy.copy_kernel(str(root), str(boot), "vmlinuz")
    assert {path.name: path.read_text() for path in boot.iterdir()} == {"kernel": "new kernel"}


def test_the_program_imports_no_module_from_the_current_directory(root: Path, tmp_path: Path) -> None:
    (root / "ctypes.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    before = Path.cwd()
    os.chdir(root)
    try:
        programs.copy_kernel(Local(), str(root), str(tmp_path / "virtroot.web"), "vmlinuz", "initrd.img")
    finally:
        os.chdir(before)
    assert not (tmp_path / "ran").exists()
