"""What a test ran is known, and what the book says of it is held against that."""

from __future__ import annotations

import subprocess

import pytest

from tests.book import Block
from tests.support import recording

HERE = "tests/unit/test_recording.py::test_a_command_of_the_book_is_one_that_ran_with_its_options"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("./inv install web --distro debian --share a:b:/c", []),
        ("./inv install web --share=a:b:/c", []),
        ("./inv install web --overlayfs", ["install web --overlayfs"]),
        ("./inv exec web -- ls --all", []),
        ("./inv share web", ["share web"]),
        ("built=$(./inv build --generator dracut)", []),
        ("./inv build --no-cache", ["build --no-cache"]),
        ("true 3", []),
        ("rsync a b", ["rsync"]),
    ],
)
def test_a_command_of_the_book_is_one_that_ran_with_its_options(text: str, missing: list[str]) -> None:
    recording.note(["unshare", "--uts", "/srv/my checkout/inv", "build", "--recipe", "x"])
    recording.note(["/src/inv", "install", "--name", "x", "--share", "a:b:/c"])
    recording.note([b"./inv", "exec", "--name", "x", "--", "ls"])
    subprocess.run(["true", "1"], check=True)
    block = Block("page", f"run by {HERE}", "sh", "", text)
    assert block.test == HERE
    assert recording.missing(block) == missing
