"""The text files of the checkout are written as .editorconfig says."""

from __future__ import annotations

import configparser

import pytest

from pipelines.checks import tracked
from pipelines.settings import CHECKOUT

#: The console of a boot, kept byte for byte.
_RECORDED = {"tests/unit/good_boot.txt"}


def violations(content: bytes) -> list[str]:
    """Return what is wrong with the line ends and the white space of a text file."""
    found = []
    if content and not content.endswith(b"\n"):
        found.append("no newline at the end")
    if content.endswith(b"\n\n"):
        found.append("empty lines at the end")
    if b"\r" in content:
        found.append("carriage returns")
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.rstrip(b" \t\r") != line.rstrip(b"\r"):
            found.append(f"white space at the end of line {number}")
    return found


def test_text_files_keep_to_the_editorconfig() -> None:
    files = {name: (CHECKOUT / name).read_bytes() for name in tracked.list_files()}
    text = {name: content for name, content in files.items() if b"\0" not in content}
    found = {name: problems for name, content in text.items() if (problems := violations(content))}
    assert found.keys() == _RECORDED, found
    assert {"inv", "tasks.py", "tests/golden/files/plan-debian.txt"} <= text.keys()


def test_the_editorconfig_names_the_exceptions() -> None:
    # The lines above the first section have none of their own.
    config = configparser.ConfigParser()
    config.read_string("[preamble]\n" + (CHECKOUT / ".editorconfig").read_text(encoding="utf-8"))
    unset = {name for name in config.sections() if config[name].get("end_of_line") == "unset"}
    assert unset == _RECORDED
    assert config["*"]["end_of_line"] == "lf"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", []),
        (b"one", ["no newline at the end"]),
        (b"one\n\n", ["empty lines at the end"]),
        (b"one\r\n", ["carriage returns"]),
        (b"one \ntwo\t\n", ["white space at the end of line 1", "white space at the end of line 2"]),
    ],
)
def test_violations_are_found(content: bytes, expected: list[str]) -> None:
    assert violations(content) == expected
