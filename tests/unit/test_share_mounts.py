"""Shares in a guest's fstab and in its definition."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.pool import shares
from pipelines.pool.shares import Share
from pipelines.target.target import Local

#: Lines that Python, but no program of a system, takes for two, and text that is not UTF-8.
ODD_LINES = [b"x\r", b"# a\x0bb\x0cc", b"# \x1c\x1d\x1e", "# \x85\u2028\u2029\xa0".encode(), b"# caf\xe9"]

FSTAB = "# ours\nroot / virtiofs defaults 0 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pool" / "root.web"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "fstab").write_text(FSTAB)
    return root


def test_each_share_has_one_line_in_fstab_until_it_is_removed(root: Path) -> None:
    target, at = Local(), str(root)
    before = os.umask(0o077)
    try:
        shares.add_mount(target, at, Share("data", "/x"), "/srv/a b\\c")
        shares.add_mount(target, at, Share("more", "/y", readonly=True), "/srv/more")
    finally:
        os.umask(before)
    always = "nofail,x-systemd.before=local-fs.target"
    data = f"data /srv/a\\040b\\134c virtiofs {always} 0 0\n"
    assert (root / "etc/fstab").read_text() == f"{FSTAB}{data}more /srv/more virtiofs {always},ro 0 0\n"
    assert shares.read_mount_points(target, at) == {"root": "/", "data": "/srv/a b\\c", "more": "/srv/more"}
    assert [(root / path).stat().st_mode & 0o777 for path in ("srv/a b\\c", "srv/more", "etc/fstab")] == [
        0o755,
        0o755,
        0o644,
    ]
    shares.add_mount(target, at, Share("more", "/y"), "/srv/elsewhere")
    assert (root / "etc/fstab").read_text() == f"{FSTAB}{data}more /srv/elsewhere virtiofs {always} 0 0\n"
    assert shares.remove_mount(target, at, "more")
    assert not shares.remove_mount(target, at, "more")
    assert (root / "etc/fstab").read_text() == FSTAB + data


def test_other_lines_in_fstab_are_not_removed_as_a_share(root: Path) -> None:
    (root / "etc/fstab").write_text(f"{FSTAB}data /x ext4 defaults 0 0\n# data /y virtiofs\n")
    before = (root / "etc/fstab").read_text()
    assert not shares.remove_mount(Local(), str(root), "data")
    assert (root / "etc/fstab").read_text() == before


@pytest.mark.parametrize("content", [b"root / virtiofs\0", "root".encode("utf-16")])
def test_an_fstab_that_is_not_text_is_not_changed(root: Path, content: bytes) -> None:
    (root / "etc/fstab").write_bytes(content)
    with pytest.raises(VirtrootError, match="not a text file"):
        shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/data")
    assert (root / "etc/fstab").read_bytes() == content


@pytest.mark.parametrize("odd", ODD_LINES)
def test_other_lines_of_the_fstab_stay_byte_for_byte(root: Path, odd: bytes) -> None:
    (root / "etc/fstab").write_bytes(FSTAB.encode() + odd + b"\n")
    shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/two words\nand\ttabs")
    assert shares.read_mount_points(Local(), str(root))["data"] == "/srv/two words\nand\ttabs"
    assert (root / "etc/fstab").read_bytes().count(b"\n") == 4
    shares.remove_mount(Local(), str(root), "data")
    assert (root / "etc/fstab").read_bytes() == FSTAB.encode() + odd + b"\n"


def test_a_mount_point_of_any_bytes_is_read_and_written_as_it_is(root: Path) -> None:
    (root / "etc/fstab").write_bytes(b"data /srv/\\303\\251\\377\\012\xa0 virtiofs\n")
    point = shares.read_mount_points(Local(), str(root))["data"]
    assert point.encode(errors="surrogateescape") == b"/srv/\xc3\xa9\xff\n\xa0"


@pytest.mark.parametrize("planted", ["srv", "etc/fstab"])
def test_a_link_out_of_the_root_is_refused(root: Path, tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs\n")
    path = root / planted
    path.unlink(missing_ok=True)
    path.symlink_to(victim / "file" if planted.endswith("fstab") else victim)
    with pytest.raises(VirtrootError, match="leaves the root through a link"):
        shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/data")
    assert [each.name for each in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "theirs\n"


def test_shares_are_read_from_a_definition() -> None:
    given = (Share("data", "/srv/a b"), Share("more", "/srv/<&>", readonly=True))
    devices = ET.Element("devices")
    root = shares.make_device(Share("root", "/pool/root.web"))
    devices.extend([root, *map(shares.make_device, given), ET.Element("filesystem", type="mount")])
    definition = ET.Element("domain")
    definition.append(devices)
    assert shares.parse_shares(definition) == given
