"""Roots of two layers: what a golden tree is known by, and what is refused before anything is mounted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.libvirt import host_files
from pipelines.target import programs
from pipelines.target.payload import before_start, layers
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Local


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    golden = tmp_path / "golden.web.0"
    (golden / "root" / "etc").mkdir(parents=True)
    (golden / "root" / "etc" / "issue").write_text("first")
    (golden / "root" / "link").symlink_to("/etc")
    return golden


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root.web"
    for name in ("upper", "work"):
        (root / name).mkdir(parents=True)
    return root


def content(tree: Path) -> None:
    """A change that keeps size and time of modification."""
    issue = tree / "etc" / "issue"
    before = issue.stat()
    issue.write_text("FIRST")
    os.utime(issue, ns=(before.st_atime_ns, before.st_mtime_ns))


def mode(tree: Path) -> None:
    (tree / "etc").chmod(0o700)


def owner(tree: Path) -> None:
    """Giving a file to who has it changes nothing but its time of change."""
    os.chown(tree / "etc" / "issue", -1, os.getgid())


def replaced(tree: Path) -> None:
    """A copy of a file that says it is the same is another one to overlayfs."""
    issue = tree / "etc" / "issue"
    subprocess.run(["cp", "-p", str(issue), str(issue.parent / "copy")], check=True)
    (issue.parent / "copy").rename(issue)


def top(tree: Path) -> None:
    tree.chmod(0o700)


def link(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("/usr")


@pytest.mark.parametrize("change", [content, mode, owner, replaced, top, link])
def test_every_change_of_a_golden_tree_changes_its_digest(golden: Path, change: Callable[[Path], None]) -> None:
    tree = golden / "root"
    before = layers.digest(str(tree))
    assert layers.digest(str(tree)) == before
    # Times of change tick as coarsely as the kernel does.
    time.sleep(0.02)
    change(tree)
    assert layers.digest(str(tree)) != before


def test_reading_changes_no_digest(golden: Path) -> None:
    before = programs.digest(Local(), f"{golden}/root")
    assert (golden / "root" / "etc" / "issue").read_text() == "first"
    os.utime(golden, ns=(1, 1))
    assert programs.digest(Local(), f"{golden}/root") == before


def test_names_that_are_no_text_have_a_digest(golden: Path) -> None:
    before = layers.digest(str(golden / "root"))
    Path(os.fsdecode(bytes(golden / "root") + b"/\xff\n")).touch()
    assert layers.digest(str(golden / "root")) != before


def test_a_changed_golden_tree_is_not_mounted(golden: Path, root: Path) -> None:
    with pytest.raises(Refused, match=f"{golden} is not the one that {root} was made on"):
        layers.mount(str(root), str(golden), "0" * 64)
    with pytest.raises(VirtrootError, match=r"golden\.web\.0 is not the one") as refused:
        programs.mount_layers(Local(), str(root), str(golden.parent / "golden.web.0"), "0" * 64)
    assert "must not change" in str(refused.value)


def test_a_golden_tree_that_is_gone_is_said(golden: Path, root: Path) -> None:
    with pytest.raises(Refused, match="is not the one"):
        layers.mount(str(root), f"{golden}.gone", "0" * 64)


@pytest.mark.parametrize("name", ["upper", "work"])
def test_layers_that_are_links_are_not_mounted(golden: Path, root: Path, name: str) -> None:
    (root / name).rmdir()
    (root / name).symlink_to("/etc")
    with pytest.raises(Refused, match=f"has no layer {name}"):
        layers.mount(str(root), str(golden), layers.digest(str(golden / "root")))


def test_what_is_not_mounted_is_left(root: Path) -> None:
    assert not layers.is_mounted(str(root))
    programs.unmount_layers(Local(), str(root))
    assert {path.name for path in root.iterdir()} == {"upper", "work"}


def test_what_somebody_else_mounted_is_not_taken_for_layers() -> None:
    with pytest.raises(Refused, match="proc is mounted at /proc"):
        layers.unmount("/proc")


def test_the_hook_leaves_roots_of_one_layer_alone() -> None:
    before_start.prepare("<domain/>")
    before_start.prepare('<domain><metadata><guest xmlns="urn:virtroot:1"><root>/r</root></guest></metadata></domain>')


def test_libvirts_hook_refuses_a_changed_golden_tree(golden: Path, root: Path, tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_bytes(host_files.hook())
    script.chmod(0o755)
    definition = (
        '<domain xmlns:v="urn:virtroot:1"><metadata><v:guest>'
        f"<v:root>{root}</v:root><v:golden>{golden}</v:golden><v:lower>{'0' * 64}</v:lower>"
        "</v:guest></metadata></domain>"
    )
    argv = [str(script), "web", "prepare", "begin", "-"]
    done = subprocess.run(argv, input=definition, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"virtroot: the base tree {golden} is not the one that {root} was made on\n"
