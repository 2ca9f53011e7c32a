"""A build costs what changed: restored is what did not, and only as it was kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifact.manifest import Manifest, load
from tests.conftest import Virtroot, built_now, named

Recipe = Callable[..., Path]

#: So little that no root could be made, nor any builder started that has one.
NO_ROOM = {"INVOKE_VIRTROOT_WORKSPACE": "tmpfs:4k"}


@pytest.fixture
def trixie(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """Built now, since other builds are compared with it."""
    return built_now(inv, recipe)


@pytest.fixture
def overlaid(recipe: Recipe) -> Path:
    """A recipe that begins as trixie's does, with an overlay."""
    path = recipe(named("cached"), "overlay: cached-tree", bootstrap="mmdebstrap")
    (path.parent / "cached-tree" / "etc").mkdir(parents=True, exist_ok=True)
    (path.parent / "cached-tree" / "etc" / "motd").write_text("hello\n")
    return path


@pytest.fixture
def longer(recipe: Recipe) -> Path:
    """A recipe with a package more than trixie's."""
    path = recipe(named("cached"), bootstrap="mmdebstrap")
    path.write_text(path.read_text().replace("qemu-guest-agent]", "qemu-guest-agent, nano]"))
    return path


def built(inv: Virtroot, path: Path, *options: str, **env: Any) -> tuple[Manifest, str]:
    done = inv("build", *options, "--recipe", str(path), **env)
    return load(Path(done.stdout.strip()) / "manifest.json"), done.stderr


def cached(manifest: Manifest) -> list[str]:
    return [stage.name for stage in manifest.stages if stage.cached]


def entries(inv: Virtroot, stage: str = "") -> list[Path]:
    """The kept roots, or those after ``stage``."""
    records = (inv.output / ".cache" / "stages").glob("*.json")
    return [path.with_suffix(".tar.zst") for path in sorted(records) if f'"stage":"{stage}' in path.read_text()]


def test_nothing_changed_is_the_artifact_that_is_there(inv: Virtroot, trixie: Path, recipe: Recipe) -> None:
    path = recipe(named("trixie"), bootstrap="mmdebstrap")
    # Other tests build it, too.
    there = {each.parent.name for each in trixie.parent.glob("*/manifest.json")}
    again, said = built(inv, path, **NO_ROOM)
    assert again.build in there
    assert again.plan == load(trixie / "manifest.json").plan
    assert f"unchanged: {again.id}; use --no-cache to build it again" in said
    assert (inv.output / named("trixie") / "latest").resolve() == inv.output / again.id


def test_an_overlay_costs_an_overlay_and_gives_the_same_bytes_as_from_nothing(
    inv: Virtroot, trixie: Path, overlaid: Path
) -> None:
    before, _ = built(inv, overlaid)
    assert cached(before) == ["base", "skeleton", "kernel", "packages"]
    tree = overlaid.parent / "cached-tree" / "etc" / "motd"
    tree.write_text("hello again\n")
    after, said = built(inv, overlaid)
    assert cached(after) == ["base", "skeleton", "kernel", "packages"]
    assert [stage.name for stage in after.stages if not stage.cached] == [
        "mirror", "overlay", "finish", "inspect", "pack",
    ]  # fmt: skip
    assert "packages (from the cache)" in said
    assert after.rootfs.sha256 != before.rootfs.sha256

    anew, said = built(inv, overlaid, "--no-cache")
    assert "from the cache" not in said
    assert anew.build != after.build
    assert anew.rootfs.sha256 == after.rootfs.sha256


def test_guests_of_another_size_are_another_artifact_with_the_same_root(
    inv: Virtroot, trixie: Path, recipe: Recipe
) -> None:
    path = recipe(named("trixie"), bootstrap="mmdebstrap")
    before = path.read_text()
    path.write_text(before.replace("memory: 1GiB", "memory: 2GiB"))
    larger, _ = built(inv, path)
    assert larger.recipe.guest.memory == 2 << 30
    assert larger.rootfs.sha256 == load(trixie / "manifest.json").rootfs.sha256
    path.write_text(before)
    # The newest of those that were built as the recipe is now.
    assert built(inv, path)[0].recipe.guest.memory == 1 << 30


def test_one_byte_is_noticed_and_the_stage_made_anew(inv: Virtroot, trixie: Path, overlaid: Path) -> None:
    for path in entries(inv, "packages"):
        with path.open("r+b") as root:
            root.seek(path.stat().st_size // 2)
            byte = root.read(1)
            root.seek(-1, os.SEEK_CUR)
            root.write(bytes([byte[0] ^ 1]))
    (overlaid.parent / "cached-tree" / "etc" / "motd").write_text("once more\n")
    made, said = built(inv, overlaid)
    assert "stage cache: the root after packages is damaged; building it again" in said
    assert cached(made) == ["base", "skeleton", "kernel"]
    assert made.packages == load(trixie / "manifest.json").packages
    (overlaid.parent / "cached-tree" / "etc" / "motd").write_text("and again\n")
    assert cached(built(inv, overlaid)[0]) == ["base", "skeleton", "kernel", "packages"]


def test_a_build_that_is_killed_while_it_keeps_a_root_leaves_none(inv: Virtroot, trixie: Path, longer: Path) -> None:
    home = inv.output / ".cache" / "stages"
    before = entries(inv)
    task = inv.start("build", "--recipe", str(longer))
    while task.poll() is None and not any(path.stat().st_size for path in home.glob(".writing-*")):
        time.sleep(0.01)
    task.kill()
    task.communicate()
    assert task.returncode == -signal.SIGKILL
    assert entries(inv) == before
    assert len(list(home.glob(".writing-*"))) == 1

    made, _ = built(inv, longer)
    assert "nano" in {package.name for package in made.packages}
    assert list(home.glob(".writing-*")) == []
    assert len(entries(inv)) == len(before) + 1


@pytest.fixture
def small(inv: Virtroot, trixie: Path, tmp_path: Path) -> Iterator[Path]:
    """An output directory whose cache has the root after the kernel, and a disk with room for a part of another."""
    home = tmp_path / "output" / ".cache"
    home.mkdir(parents=True)
    # Of the recipe that was built last: other releases and generators are kept, too.
    kernel = max(entries(inv, "kernel"), key=lambda path: path.with_suffix("").with_suffix(".json").stat().st_mtime)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kernel.stat().st_size + (20 << 20)}", "none", home], check=True
    )
    (home / "stages").mkdir()
    for path in (kernel, kernel.with_suffix("").with_suffix(".json")):
        shutil.copy(path, home / "stages")
    yield home.parent
    subprocess.run(["umount", home], check=True)


def test_a_disk_that_fills_up_stops_no_build(inv: Virtroot, longer: Path, small: Path) -> None:
    made, said = built(inv, longer, INVOKE_VIRTROOT_OUTPUT=str(small))
    assert "stage cache: the root after packages is not cached: No space left on device" in said
    assert cached(made) == ["base", "skeleton", "kernel"]
    assert (small / named("cached") / "latest").resolve().name == made.build
    assert len(list((small / ".cache" / "stages").glob("[!.]*"))) == 2
    assert list((small / ".cache" / "stages").glob(".writing-*")) == []
