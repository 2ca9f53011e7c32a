"""Which libraries a command imports: those of a command that only shows something make it answer late."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT

#: Libraries whose import takes longer than the commands below.
SLOW = {"docker", "requests", "rich", "pytest"}


def imported(*words: str, **env: str) -> set[str]:
    """Return the libraries that a command imports, by Python's own count."""
    program = CHECKOUT / "pipelines" / "cli" / "__main__.py"
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", program, *words],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "invoke" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["--list"], [], ["list", "--help"], ["--complete", "--", "sta"],
     ["--complete", "--", "list", "--"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_completion_import_no_slow_library(words: list[str]) -> None:
    assert not imported(*words) & SLOW


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["--complete", "--", "sta"]], ids=" ".join)
def test_help_of_the_program_reads_no_settings(words: list[str]) -> None:
    assert "pydantic" not in imported(*words)


def test_a_list_of_the_hosts_guests_imports_no_slow_library(tmp_path: Path) -> None:
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\n")
    virsh.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert not imported("--connect", "qemu:///system", "list", "--json", PATH=path) & SLOW
