"""How much trees take; what they share needs file systems that can, see the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.target import programs
from pipelines.target.payload import usage
from pipelines.target.target import Local


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "root.web"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "large").write_bytes(os.urandom(1 << 20))
    (tree / "etc" / "again").hardlink_to(tree / "etc" / "large")
    (tree / "out").symlink_to("/usr")
    os.mkfifo(tree / "pipe")
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    return tree


def test_a_tree_takes_what_du_says(tree: Path) -> None:
    said = subprocess.run(["du", "-s", "--block-size=1", str(tree)], check=True, capture_output=True, text=True)
    top = tree.stat().st_blocks * 512
    assert programs.measure(Local(), 10, [(str(tree), "")]) == [(int(said.stdout.split()[0]) - top, 0)]


def test_what_takes_too_long_or_is_gone_is_not_known(tree: Path) -> None:
    assert programs.measure(Local(), 0, [(str(tree), ""), ("/nowhere", "")]) == [None, None]
    with pytest.raises(usage.OutOfTime):
        usage.measure(str(tree), time.monotonic() - 1)


def test_nothing_is_opened_that_is_no_file(tree: Path) -> None:
    """A pipe that nobody writes to would hold up who opens it."""
    handle = os.open(tree, os.O_RDONLY)
    try:
        for name in ("pipe", "out", "etc", "gone"):
            assert usage._shared(handle, name) == 0
    finally:
        os.close(handle)


def test_files_are_opened_only_where_they_can_share_blocks(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def shared(_: int, name: str) -> int:
        opened.append(name)
        return 0

    monkeypatch.setattr(usage, "_shared", shared)
    assert not usage._can_share("/dev/shm")
    # Neither proc nor a path that cannot be asked is known to share nothing.
    assert usage._can_share("/proc")
    assert usage._can_share("/nowhere")
    for can_share, count in ((False, 0), (True, 1)):
        monkeypatch.setattr(usage, "_can_share", lambda _, answer=can_share: answer)
        usage.measure(str(tree), time.monotonic() + 60)
        # The two names of one file count once; the sparse file has no blocks.
        assert len(opened) == count
