"""The linters: which files they read, and that a commit's hooks are the same programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import yaml

from pipelines import test as checks
from pipelines.checks import lint, tracked
from pipelines.host import process
from pipelines.settings import CHECKOUT, Settings

PROGRAMS = Path(sys.executable).parent
CONFIG = CHECKOUT / ".pre-commit-config.yaml"
HOOKS = {
    hook["id"]: hook for repo in yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repos"] for hook in repo["hooks"]
}


def run(*argv: str, cwd: Path = CHECKOUT, **env: str) -> subprocess.CompletedProcess[str]:
    program = str(PROGRAMS / argv[0])
    return subprocess.run(
        [program, *argv[1:]], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "script",
    [
        "inv",
        ".ci/run",
        "containerfiles/debian/bootstrap",
        # Sourced, bash by its name, and two that only an initramfs runs.
        "containerfiles/debian/mirrors",
        "pipelines/cli/shells/inv.bash",
        "pipelines/recipe/skeletons/booster/usr/lib/virtroot/init",
        "pipelines/recipe/skeletons/mkinitcpio/etc/initcpio/hooks/virtroot-usr",
        "pipelines/target/payload/virtiofsd.sh",
        "tests/acceptance/gather.sh",
    ],
)
def test_shell_scripts_are_found(script: str) -> None:
    assert script in lint.list_shell_scripts()


def test_other_programs_are_not_taken_for_shell_scripts() -> None:
    assert not {"containerfiles/debian/shift-owners", "tests/browser/look", "tasks.py"} & {*lint.list_shell_scripts()}


def test_each_executable_file_is_a_script_that_a_linter_reads() -> None:
    listed = tracked.run_git("ls-files", "--stage", "-z")
    assert listed
    executable = {entry.partition("\t")[2] for entry in listed.split("\0") if entry.startswith("100755")}
    python = {name for name in executable if (CHECKOUT / name).read_bytes().partition(b"\n")[0].endswith(b"python3")}
    assert "inv" in executable
    assert executable - python <= {*lint.list_shell_scripts()}


def test_shellcheck_and_codespell_find_mistakes(tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text("#!/bin/sh\nrm $1\n")
    done = run("shellcheck", "script.sh", cwd=tmp_path)
    assert (done.returncode, "SC2086" in done.stdout) == (1, True)
    (tmp_path / "page.md").write_text("The root was recieved.\n")  # codespell:ignore
    assert "recieved ==> received" in run("codespell", "page.md", cwd=tmp_path).stdout  # codespell:ignore


def test_a_commits_hooks_run_the_linters_of_the_environment() -> None:
    entries = {name: shlex.split(hook["entry"]) for name, hook in HOOKS.items()}
    assert {entry[0] for entry in entries.values()} == {
        f".venv/bin/{name}" for name in ("ruff", "mypy", "codespell", "shellcheck")
    }
    assert {hook["language"] for hook in HOOKS.values()} == {"system"}
    for title, (program, *_) in lint.commands():
        name, *options = title.split()
        assert (Path(program).name, Path(program).is_file()) == (name, True)
        assert any(entry[0] == f".venv/bin/{name}" and {*options} <= {*entry} for entry in entries.values()), title


def test_the_hook_reads_the_same_shell_scripts() -> None:
    hook = HOOKS["shellcheck"]
    matching = [name for name in tracked.list_files() if re.search(hook["files"], name)]
    assert [name for name in matching if not re.search(hook["exclude"], name)] == lint.list_shell_scripts()


def test_pre_commit_takes_the_configuration(tmp_path: Path) -> None:
    done = run("pre-commit", "validate-config", str(CONFIG), PRE_COMMIT_HOME=str(tmp_path))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("ended", "status"), [(0, 0), (1, 1), (os.EX_DATAERR, 1), (2, 2)])
def test_lint_ends_with_a_documented_status(monkeypatch: pytest.MonkeyPatch, ended: int, status: int) -> None:
    attach = create_autospec(process.attach, return_value=ended)
    monkeypatch.setattr(process, "attach", attach)
    assert checks.test(Settings(), "lint", long=False, changed=False, base="") == status
    assert len(attach.call_args_list) == (1 if ended else 4)
