"""Where what comes out of a guest is written: files as a whole, anything else as it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.host import destination
from pipelines.settings import CHECKOUT
from pipelines.target.payload import errors, guest_files


def test_a_device_is_written_to_and_stays_one() -> None:
    before = Path("/dev/null").stat()
    destination.write(Path("/dev/null"), b"x", "F")
    after = Path("/dev/null").stat()
    assert (after.st_ino, after.st_rdev, stat.S_ISCHR(after.st_mode)) == (before.st_ino, before.st_rdev, True)
    assert not list(Path("/dev").glob(".null*"))


def test_a_fifo_is_written_to_and_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    destination.write(tmp_path / "fifo", b"x" * 100_000, "F")
    reader.join()
    assert read == [b"x" * 100_000]
    assert (tmp_path / "fifo").is_fifo()


def test_a_file_where_a_link_leads_is_written_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "new").symlink_to("made")
    destination.write(tmp_path / "link", b"x", "F")
    destination.write(tmp_path / "new", b"y", "F")
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "real").read_bytes(), (tmp_path / "made").read_bytes()) == (b"x", b"y")
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_a_directory_gets_a_file_of_the_guests_name(tmp_path: Path) -> None:
    destination.write(tmp_path, b"x", "F")
    assert [path.name for path in tmp_path.iterdir()] == ["F"]


@pytest.mark.parametrize("how", ["pipe", "file"])
def test_standard_output_is_written_to_behind_what_is_there(tmp_path: Path, how: str) -> None:
    script = (
        "from pathlib import Path; from pipelines.host import destination as d; d.write(Path('/dev/stdout'), b'x', '')"
    )
    with (tmp_path / "out").open("ab") as out:
        out.write(b"before ")
        out.flush()
        stdout = out if how == "file" else subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, stdout=stdout)
    assert (done.stdout or (tmp_path / "out").read_bytes()).endswith(b"x")
    assert (tmp_path / "out").read_bytes().startswith(b"before ")


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / "missing" / "F", Path("/proc/F")):
        with pytest.raises(VirtrootError, match=f"cannot write {path}"):
            destination.write(path, b"x", "F")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_file_that_cannot_be_replaced_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted").write_text("longer than what is new")

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    destination.write(tmp_path / "mounted", b"x", "F")
    assert (tmp_path / "mounted").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["mounted"]


def test_into_a_guest_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    (tmp_path / "page").write_text("old")
    for name, why in (("fifo", "not a regular file"), ("current", "is a link to 'releases'")):
        with pytest.raises(errors.Refused, match=why):
            guest_files.write(str(tmp_path), name, 0o644, [b"x"], over_files=True)
    guest_files.write(str(tmp_path), "page", 0o644, [b"x"], over_files=True)
    assert (tmp_path / "page").read_bytes() == b"x"
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "current").is_symlink()
    assert len(list(tmp_path.iterdir())) == 4
