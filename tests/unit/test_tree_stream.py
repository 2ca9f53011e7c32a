"""Sources of an import: directories, tarballs and disk images, and how they are opened."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import tree_stream
from pipelines.target import mounts
from pipelines.target.payload import mountinfo


@pytest.mark.parametrize(
    ("at", "magic"),
    [(0, b"QFI\xfb"), (0, b"QED\0"), (0, b"XFSB"), (0, b"LUKS\xba\xbe"), (512, b"LABELONE"), (65600, b"_BHRfS_M")],
)
def test_a_disk_image_is_recognised_by_its_magic_bytes(tmp_path: Path, at: int, magic: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\0" * at + magic + b"\0" * 1024)
    assert tree_stream.get_source(str(path), outside=tmp_path / "output").kind == "disk"


@pytest.mark.parametrize(
    ("head", "option"),
    [
        (b"\x1f\x8b\x08", "--gzip"),
        (b"\x28\xb5\x2f\xfd", "--zstd"),
        (b"\xfd7zXZ\x00", "--xz"),
        (b"BZh9", "--bzip2"),
        (b"x" * 257 + b"ustar\0", ""),
    ],
)
def test_a_tarball_is_recognised_by_its_first_bytes(tmp_path: Path, head: bytes, option: str) -> None:
    path = tmp_path / "anything"
    path.write_bytes(head)
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    assert (found.kind, found.size, found.decompress) == ("tarball", len(head), option)


def test_an_invalid_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no tarball")
    for name, why in {
        "missing": "cannot read",
        "notes.txt": "not a tarball or disk image",
        "": "contains",
        "/dev/null": "not a directory or file",
    }.items():
        with pytest.raises(VirtrootError, match=why):
            tree_stream.get_source(str(tmp_path / name), outside=tmp_path / "output")
    with pytest.raises(VirtrootError, match="the running system"):
        tree_stream.get_source("/", outside=Path("/nowhere/output"))


MOUNTED = {"proc": "proc", "boot": "ext4", "home": "xfs", "srv/data": "btrfs", "var/lib": "xfs"}


def test_mounted_data_is_not_imported_unless_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "system"
    source.mkdir()
    points = {"/": "ext4", str(source): "ext4", **{f"{source}/{point}": kind for point, kind in MOUNTED.items()}}
    there = [mountinfo.Mount(point, kind, []) for point, kind in points.items()]
    monkeypatch.setattr(mounts, "points", lambda _: there)
    assert tree_stream.get_source(str(source), outside=tmp_path / "o").left_out == ("proc", "home", "srv/data")
    assert tree_stream.get_source(str(source), outside=tmp_path / "o", include_mounts=True).left_out == ("proc",)


def test_a_directory_that_was_replaced_by_a_link_is_still_read(tmp_path: Path) -> None:
    """The owner of the parent directory can replace it by a link to any directory of the host at any time."""
    (tmp_path / "theirs/root/etc").mkdir(parents=True)
    (tmp_path / "theirs/root/etc/name").write_text("the system")
    (tmp_path / "secret/etc").mkdir(parents=True)
    (tmp_path / "secret/etc/name").write_text("the host's own")
    found = tree_stream.get_source(str(tmp_path / "theirs/root"), outside=tmp_path / "output")
    (tmp_path / "theirs/root").rename(tmp_path / "theirs/aside")
    (tmp_path / "theirs/root").symlink_to(tmp_path / "secret")
    with tree_stream._open_tar(found) as content, tarfile.open(fileobj=content, mode="r|") as tar:
        names = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}  # type: ignore[union-attr]
    assert names == {"./etc/name": b"the system"}
    assert Path(found.handle_path, "etc/name").read_text() == "the system"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_was_replaced_by_a_link_is_still_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w:gz" if ending else "w") as tar:
        tar.add(__file__, "etc/name")
    before = path.read_bytes()
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    path.unlink()
    path.symlink_to("/etc/shadow")
    with tree_stream._open_tar(found) as content:
        assert content.read() == before


def test_the_target_of_a_link_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert tree_stream.get_source(str(tmp_path / "link"), outside=tmp_path / "output").path == tmp_path / "real"
    assert "is a link to" in capsys.readouterr().err
