"""Files that are read, written and deleted in a guest's root."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipelines.target.payload import beneath, guest_files
from pipelines.target.payload.errors import Refused
from tests.support.planted import root

__all__ = ["root"]


def test_a_file_over_the_limit_is_not_read(root: Path) -> None:
    (root / "key").write_bytes(b"k" * beneath.LARGEST_READ)
    assert len(guest_files.read(str(root), "key")) == beneath.LARGEST_READ
    with (root / "key").open("ab") as key:
        key.truncate(1 << 40)
    with pytest.raises(Refused, match="the limit is"):
        guest_files.read(str(root), "key")


def test_write_makes_directories_inside_the_root(root: Path) -> None:
    guest_files.write(str(root), "root/.ssh/authorized_keys", 0o600, [b"key\n"])
    written = root / "root" / ".ssh" / "authorized_keys"
    assert written.read_bytes() == b"key\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_write_replaces_a_link_and_leaves_what_it_names(root: Path, tmp_path: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "hostname").symlink_to(tmp_path / "victim")
    guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert (root / "etc" / "hostname").read_bytes() == b"web\n"
    assert (tmp_path / "victim").read_bytes() == b"secret"


@pytest.mark.parametrize("link", ["..", "/", "nowhere"])
def test_write_refuses_a_directory_that_is_a_link_out_or_to_nowhere(root: Path, tmp_path: Path, link: str) -> None:
    (root / "etc").symlink_to(link)
    with pytest.raises(Refused):
        guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.web", "victim"]


def test_write_follows_a_link_that_stays_inside(root: Path) -> None:
    (root / "usr" / "etc").mkdir(parents=True)
    (root / "etc").symlink_to("usr/etc")
    guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert (root / "usr" / "etc" / "hostname").read_bytes() == b"web\n"


def test_delete_removes_host_keys_and_the_named_files_only(root: Path, tmp_path: Path) -> None:
    for path in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/ssh/sshd_config", "var/lib/seed"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "etc/ssh/ssh_host_link").symlink_to(tmp_path / "victim")
    (root / "var/lib/dbus").mkdir()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    guest_files.delete(str(root), ["var/lib/seed", "var/lib/dbus/machine-id", "not/there"])
    assert sorted(path.name for path in (root / "etc/ssh").iterdir()) == ["ssh_host_link", "sshd_config"]
    assert not (root / "var/lib/seed").exists()
    assert (root / "var/lib/dbus/machine-id").is_symlink()
    assert (tmp_path / "victim").read_bytes() == b"secret"


def test_delete_refuses_a_directory_outside_the_root(root: Path, tmp_path: Path) -> None:
    (root / "etc").mkdir()
    (tmp_path / "ssh").mkdir()
    key = tmp_path / "ssh/ssh_host_rsa_key"
    key.touch()
    (root / "etc/ssh").symlink_to(tmp_path / "ssh")
    with pytest.raises(Refused, match="leaves the root"):
        guest_files.delete(str(root), [])
    assert key.exists()
