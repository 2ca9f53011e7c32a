"""A build that is killed leaves nothing under a final name and no builder, and does not hinder the next one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from pipelines.host import process
from tests.conftest import Virtroot, built_now, named


def published(inv: Virtroot, name: str) -> list[str]:
    home = inv.output / name
    return sorted(entry.name for entry in home.iterdir() if not entry.name.startswith(".")) if home.exists() else []


@pytest.fixture
def trixie(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """Built now, since other builds are compared with it."""
    return built_now(inv, recipe)


@pytest.mark.parametrize("after", ["kernel", "inspect"])
def test_kill_leaves_nothing(inv: Virtroot, trixie: Path, recipe: Callable[..., Path], after: str) -> None:
    before = published(inv, named("trixie"))
    # From nothing, and from a root that is kept.
    how = ([], ["--no-cache"]) if after == "kernel" else (["run: ['echo mine > /etc/mine']"], [])
    task = inv.start("build", *how[1], "--recipe", str(recipe(named("trixie"), *how[0], bootstrap="mmdebstrap")))
    assert task.stderr is not None
    seen = []
    for line in task.stderr:
        seen.append(line)
        if line.startswith(after):
            break
    os.kill(task.pid, signal.SIGKILL)
    task.communicate()
    assert task.returncode == -signal.SIGKILL, "".join(seen)
    assert published(inv, named("trixie")) == before
    # Nobody has to run it again for that: what it had on the engine ends with it.
    left_by: dict[str, Any] = {"label": f"virtroot.key={inv.settings.key}"}
    deadline = time.monotonic() + 60
    while left := docker.from_env().containers.list(all=True, filters=left_by, ignore_removed=True):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_the_next_build_clears_up_and_gives_the_same_bytes(
    inv: Virtroot, trixie: Path, recipe: Callable[..., Path]
) -> None:
    (inv.output / named("trixie") / ".partial-killed").mkdir()
    path = recipe(named("trixie"), bootstrap="mmdebstrap")
    again = Path(inv("build", "--no-cache", "--recipe", str(path)).stdout.strip())
    assert again != trixie
    assert list((inv.output / named("trixie")).glob(".partial*")) == []
    assert (inv.output / named("trixie") / "latest").resolve() == again
    digests = process.run(["sha256sum", str(trixie / "rootfs.tar.zst"), str(again / "rootfs.tar.zst")]).text.split()
    assert digests[0] == digests[2]
