"""The program that reads disk images: its messages, and the image that it gets."""

from __future__ import annotations

import io
import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import IO
from unittest.mock import MagicMock

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import guestfs, tree_stream
from pipelines.origin.disk import Choice, Disks, choose
from tests.support.disks import DEVICES, make_disk_system


def test_messages_of_the_disk_reader_may_arrive_in_pieces() -> None:
    disks = Disks(systems=(make_disk_system(),), filesystems=DEVICES)
    said = disks.model_dump_json().encode() + b"\ntar with\nlines in it"
    for size in (1, 7, len(said)):
        chosen: list[Disks] = []
        reply, copied = io.BytesIO(), io.BytesIO()
        with ExitStack() as stack:

            def choosing(found: Disks, chosen: list[Disks] = chosen) -> Choice:
                chosen.append(found)
                return choose(found, "", include_mounts=False)

            reading = guestfs._Conversation(choosing, reply, copied.write, stack)
            for begin in range(0, len(said), size):
                reading.take(said[begin : begin + size])
        assert chosen == [disks]
        assert copied.getvalue() == b"tar with\nlines in it"
        assert json.loads(reply.getvalue()) == {"mounts": [["/", "/dev/sda2"], ["/var", "/dev/sda6"]]}


@pytest.mark.parametrize("said", [b"{}\n", b"tar\n", b"x" * (2 << 20)])
def test_invalid_messages_of_the_disk_reader_are_refused(said: bytes) -> None:
    with ExitStack() as stack, pytest.raises(VirtrootError, match="cannot read the disk image"):
        guestfs._Conversation(MagicMock(), io.BytesIO(), MagicMock(), stack).take(said)


def test_a_disk_image_is_copied_whole_and_sparse_from_the_open_file(tmp_path: Path) -> None:
    path, copied = tmp_path / "image.raw", tmp_path / "copied"
    copied.mkdir()
    with path.open("wb") as image:
        image.write(b"QFI\xfb" + b"x" * 10000)
        image.truncate(64 << 20)
        image.seek(32 << 20)
        image.write(b"in the middle")
    content = path.read_bytes()
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    path.unlink()
    path.symlink_to("/etc/shadow")
    container = MagicMock()

    def run(argv: list[str], stdin: IO[bytes] | None = None) -> None:
        if stdin:
            here = [word.replace("/disk", str(copied)) for word in argv]
            subprocess.run(here, input=stdin.read(), check=True)

    container.run.side_effect = run
    guestfs.copy_image(found, container)
    assert (copied / "image").read_bytes() == content
    assert (copied / "image").stat().st_blocks * 512 < len(content) // 2
