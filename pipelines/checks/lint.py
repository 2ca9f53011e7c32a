"""The linters: their command lines, and the files that they read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pipelines.checks import tracked
from pipelines.settings import CHECKOUT

#: The first line of a script for a POSIX shell or bash; the one of a booster image is busybox.
_SHEBANG = re.compile(rb"#!.*[/ ](?:sh|ash|bash|dash)\n")

#: What a file without such a line has: one that is sourced, or is read by its name.
_DIRECTIVE = b"# shellcheck shell="
_SUFFIXES = (".sh", ".bash")


def commands() -> list[tuple[str, list[str]]]:
    """Return the linters' titles and command lines, with the programs of this Python's environment."""
    return [
        ("ruff check", [_program("ruff"), "check"]),
        ("ruff format --check", [_program("ruff"), "format", "--check"]),
        ("codespell", [_program("codespell"), *tracked.list_files()]),
        ("shellcheck", [_program("shellcheck"), *list_shell_scripts()]),
    ]


def list_shell_scripts() -> list[str]:
    """List the files of the checkout that shellcheck reads, relative to it."""
    return [name for name in tracked.list_files() if name.endswith(_SUFFIXES) or _is_shell(CHECKOUT / name)]


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(200)
    return bool(_SHEBANG.fullmatch(first)) or first.startswith(_DIRECTIVE)


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
