"""What an import decides before and after a system is in its builder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from pipelines import import_system as importing
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.libvirt import connect
from pipelines.origin.tree_stream import Source
from pipelines.recipe.generators import GENERATORS
from pipelines.settings import Settings
from tests.support.systems import ARCH, DEBIAN

INITRAMFS_TOOLS = GENERATORS["debian", "initramfs-tools"]


@pytest.mark.parametrize(
    ("links", "kernel", "initrd"),
    [
        ({"vmlinuz": "boot/vmlinuz-6"}, "vmlinuz", "initrd.img"),
        # Ubuntu's, beside the kernels.
        ({"boot/vmlinuz": "vmlinuz-6", "boot/initrd.img": "initrd.img-6"}, "boot/vmlinuz", "boot/initrd.img"),
        ({}, "vmlinuz", "initrd.img"),
    ],
)
def test_a_kernel_is_where_the_systems_own_links_are(links: dict[str, str], kernel: str, initrd: str) -> None:
    row = importing._set_boot_paths(replace(DEBIAN, links=links), INITRAMFS_TOOLS)
    assert (row.kernel, row.initrd) == (kernel, initrd)
    without = importing._set_boot_paths(replace(DEBIAN, links=links), GENERATORS["debian", "none"])
    assert (without.kernel, without.initrd) == (kernel, "")


def test_a_kernel_of_arch_is_called_after_its_package() -> None:
    row = GENERATORS["arch", "mkinitcpio"]
    assert importing._set_boot_paths(replace(ARCH, kernels=("linux-lts",)), row).kernel == "boot/vmlinuz-linux-lts"
    assert importing._set_boot_paths(replace(ARCH, kernels=("linux-lts", "linux")), row).kernel == "boot/vmlinuz-linux"
    with pytest.raises(VirtrootError, match="has no kernel in /boot"):
        importing._set_boot_paths(replace(ARCH, kernels=()), row)


@pytest.mark.parametrize(
    ("path", "running", "embedded", "refused"),
    [("/pool/root.web", True, False, True), ("/pool/root.web/srv", True, False, True),
     ("/pool/root.web", False, False, False), ("/pool/root.web2", True, False, False),
     ("/pool/root.web", True, True, False)],
)  # fmt: skip
def test_a_root_that_changes_meanwhile_is_not_read(
    monkeypatch: pytest.MonkeyPatch, path: str, running: bool, embedded: bool, refused: bool
) -> None:
    guest = SimpleNamespace(name="web", root="/pool/root.web", running=running)
    monkeypatch.setattr(connect, "find", lambda _: MagicMock(embedded=embedded))
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda _: [guest])
    source = Source(Path(path), "directory", 0)
    if refused:
        with pytest.raises(VirtrootError, match="is the root of the running guest web"):
            importing._refuse_running(source, CommandContext(Settings()))
    else:
        importing._refuse_running(source, CommandContext(Settings()))


def test_a_directory_that_cannot_come_is_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engine.engine.connect", lambda: pytest.fail("that begins to copy"))
    monkeypatch.setattr(connect, "find", lambda _: None)
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    with pytest.raises(VirtrootError, match="an unknown processor"):
        importing.import_system("web", str(root), CommandContext(Settings(output=str(tmp_path / "output"))))
    assert not (tmp_path / "output").exists()


def test_an_offset_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(VirtrootError, match="--shift-ids: not a number"):
        importing.import_system(
            "web", str(tmp_path / "x"), CommandContext(Settings(output=str(tmp_path / "o"))), shift_ids="much"
        )


def test_a_shifted_directory_is_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engine.engine.connect", lambda: pytest.fail("that begins to copy"))
    monkeypatch.setattr(connect, "find", lambda _: None)
    monkeypatch.setattr("pipelines.origin.system.refuse", lambda _: None)
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/lib", "etc", "var"):
        (root / name).mkdir(parents=True)
    for path in [root, *root.rglob("*")]:
        os.chown(path, 100000, 100000)
    settings = Settings(output=str(tmp_path / "output"))
    with pytest.raises(VirtrootError, match="shifted by 100000") as failed:
        importing.import_system("web", str(root), CommandContext(settings))
    assert failed.value.hint == "use --shift-ids auto to shift them back"
    with pytest.raises(BaseException, match="that begins to copy"):
        importing.import_system("web", str(root), CommandContext(settings), shift_ids="auto")
