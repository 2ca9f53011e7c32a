"""The programs for libvirt's host are one zip file, which every target can run."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.libvirt import host_files
from pipelines.target import payload_call, programs
from pipelines.target.payload import __main__ as commands
from pipelines.target.target import Local

#: The limit of one argument of a program; see execve(2).
MAX_ARG_STRLEN = 131072


class Recording(Local):
    """This machine, with a note of each command that is run."""

    ran: list[Sequence[str]] = []  # noqa: RUF012 - a frozen dataclass has no other place

    def run(self, argv: Sequence[str], **given: Any) -> Completed:
        self.ran.append(argv)
        return super().run(argv, **given)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setattr(payload_call, "PROGRAMS", str(tmp_path / "run/programs"))
    monkeypatch.setattr(payload_call, "_found", {})
    Recording.ran.clear()
    return Recording()


def test_equal_sources_are_equal_bytes() -> None:
    first = payload_call.archive()
    payload_call.archive.cache_clear()
    assert payload_call.archive() == first
    with zipfile.ZipFile(io.BytesIO(first)) as packed:
        assert {each.date_time[0] for each in packed.infolist()} == {1980}
        assert "payload/beneath.py" in packed.namelist()


def test_it_is_sent_once_and_closed_to_others(target: Recording, tmp_path: Path) -> None:
    for _ in range(2):
        assert programs.read_kernel_release(target, str(tmp_path)) == ""
    assert [argv[0] for argv in target.ran].count("sh") == 2
    (sent,) = (tmp_path / "run/programs").iterdir()
    assert sent.read_bytes() == payload_call.archive()
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "run", sent.parent, sent)]
    assert modes == [0o700, 0o700, 0o600]


def test_a_target_that_lost_it_gets_it_again(target: Recording, tmp_path: Path) -> None:
    programs.read_kernel_release(target, str(tmp_path))
    (sent,) = (tmp_path / "run/programs").iterdir()
    sent.unlink()
    assert programs.read_kernel_release(target, str(tmp_path)) == ""
    assert sent.exists()


def test_a_stream_is_not_lost_with_it(target: Recording, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    programs.read_kernel_release(target, str(tmp_path))
    next((tmp_path / "run/programs").iterdir()).unlink()
    with io.BytesIO(b"content") as content:
        programs.put(target, str(tmp_path / "root"), "file", 0o600, content)
    assert (tmp_path / "root/file").read_bytes() == b"content"


def test_a_part_of_it_gets_no_name(target: Recording, tmp_path: Path) -> None:
    """The sender was killed: the input ends early."""
    path = tmp_path / "run/programs/it.zip"
    argv = ["sh", "-ec", payload_call._SEND, "send", str(path), "100"]
    assert target.run(argv, stdin=b"part", check=False).returncode
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("why", ["closed", "doctor"])
def test_a_target_without_a_place_for_it_runs_it_in_memory(
    target: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "closed":
        # A directory cannot be made where a file is, by root either.
        (tmp_path / "run").touch()
        assert programs.read_kernel_release(target, str(tmp_path)) == ""
    else:
        asked: dict[str, object] = {"files": [], "directories": [], "locks": [], "guests": {}}
        assert programs.collect_facts(target, asked)["user"] == os.geteuid()
        assert not (tmp_path / "run").exists()
    words = next(argv for argv in target.ran if argv[0] == sys.executable)
    assert words[1:3] == ["-I", "-c"]
    assert max(map(len, words)) < MAX_ARG_STRLEN


def test_nothing_of_the_current_directory_is_imported(
    target: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "payload", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the guest')\n")
    monkeypatch.chdir(tmp_path)
    assert programs.read_kernel_release(target, str(tmp_path)) == ""
    assert programs.collect_facts(target, {"files": [], "directories": [], "locks": [], "guests": {}})


def test_a_refusal_is_one_line_and_no_traceback(target: Recording, tmp_path: Path) -> None:
    (tmp_path / "kernel").symlink_to("/etc/passwd")
    with pytest.raises(VirtrootError, match=r"kernel: leaves the root through a link\n") as refused:
        programs.read(target, str(tmp_path), "kernel")
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("command", sorted({**commands.COMMANDS, **commands.READERS, **commands.WRITERS}))
def test_each_command_has_a_function(command: str) -> None:
    places = {**commands.COMMANDS, **commands.READERS, **commands.WRITERS}
    assert callable(commands._load(places[command]))


def test_the_hook_lets_others_pass_without_python(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_bytes(host_files.hook())
    hook.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cat").symlink_to("/bin/cat")
    env = {"PATH": str(tmp_path / "bin")}
    for words in (["web", "prepare", "begin", "-"], ["web", "started", "begin", "-"]):
        done = subprocess.run([hook, *words], input=b"<domain><name>web</name></domain>", env=env, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_hook_runs_the_payload_from_any_directory(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_bytes(host_files.hook())
    hook.chmod(0o755)
    definition = (
        '<domain><metadata><guest xmlns="urn:virtroot:1"><root>/nowhere/root.web</root></guest></metadata>'
        "<os><kernel>/nowhere/kernel</kernel></os></domain>"
    )
    done = subprocess.run(
        [hook, "web", "prepare", "begin", "-"], input=definition, cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "virtroot: /nowhere is not a boot directory of virtroot\n"


def test_arguments_of_any_bytes_arrive(target: Recording, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff \n'\"")
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_bytes(b"x")
    assert programs.read(target, str(tmp_path / name), "file") == b"x"
    assert json.loads(payload_call.call(target, "digest", {"tree": str(tmp_path / name)}).stdout)


def test_a_directory_in_the_place_of_a_file_is_a_kind_of_error(target: Recording, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(programs.DirectoryExists, match="there: Is a directory"):
        programs.put(target, str(tmp_path), "there", 0o600, b"content")
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == ["there"]


@pytest.mark.parametrize("content", [b"", bytes(70000), b"PK"])
def test_a_damaged_zip_is_replaced(target: Recording, tmp_path: Path, content: bytes) -> None:
    programs.read_kernel_release(target, str(tmp_path))
    (sent,) = (tmp_path / "run/programs").iterdir()
    sent.write_bytes(content)
    payload_call._found.clear()
    assert programs.read_kernel_release(target, str(tmp_path)) == ""
    assert sent.read_bytes() == payload_call.archive()


def test_an_empty_program_is_not_taken_for_one_that_ran(target: Recording, tmp_path: Path) -> None:
    """Python runs an empty file without an error."""
    programs.read_kernel_release(target, str(tmp_path))
    next((tmp_path / "run/programs").iterdir()).write_bytes(b"")
    with pytest.raises(VirtrootError, match="printed nothing"):
        programs.check_not_replaced(target, str(tmp_path), "usr")


@pytest.mark.parametrize("how", ["writable", "link", "foreign"])
def test_nothing_is_run_from_a_directory_that_others_can_write_to(target: Recording, tmp_path: Path, how: str) -> None:
    directory = tmp_path / "run/programs"
    directory.mkdir(parents=True)
    if how == "writable":
        directory.chmod(0o1777)
    elif how == "foreign":
        os.chown(directory, 65534, 65534)
    else:
        directory.rename(tmp_path / "elsewhere")
        directory.symlink_to(tmp_path / "elsewhere")
    mode = directory.stat().st_mode
    assert programs.read_kernel_release(target, str(tmp_path)) == ""
    words = next(argv for argv in target.ran if argv[0] == sys.executable)
    assert words[1:3] == ["-I", "-c"], "it runs in memory"
    assert (directory.stat().st_mode, list(directory.iterdir())) == (mode, [])


@pytest.mark.parametrize("path", sorted(payload_call._PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_python_3_9_can_run_it(path: Path) -> None:
    """ruff checks the syntax, and not the arguments of functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [call.lineno for call in calls if call.func.id == "zip" and call.keywords]  # type: ignore[attr-defined]
    assert "from __future__ import annotations" in path.read_text(encoding="utf-8") or not calls
