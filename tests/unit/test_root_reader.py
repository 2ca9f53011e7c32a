"""A guest changes its root while it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.target.payload import beneath, inventory, root_reader
from pipelines.target.payload.errors import NotRegular


def test_a_file_that_becomes_a_link_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "hosts"):
        (tmp_path / "etc" / name).write_text(name)
    read = root_reader.read_entry

    def race(directory: int, name: str, largest: int) -> bytes:
        if name == "passwd":
            os.unlink(name, dir_fd=directory)
            os.symlink("/etc/shadow", name, dir_fd=directory)
        return read(directory, name, largest)

    monkeypatch.setattr(inventory, "read_entry", race)
    _, contents = inventory.take(str(tmp_path), 0)
    assert contents == {"etc/hosts": b"hosts"}


def test_a_link_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with beneath.opened(str(tmp_path)) as root, pytest.raises(NotRegular, match="link: is a link"):
        beneath.read(root, "link", links=False)
