"""A root is run as a container of its own, for what a chroot is not enough for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest

from pipelines.artifact import archive
from pipelines.builder import container
from pipelines.builder.container import Builder
from pipelines.builder.root_container import run_container
from pipelines.builder.stages import StageRunner
from pipelines.engine import engine as engines
from pipelines.engine.engine import Engine
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.stage import ROOT, Command, Stage
from tests.conftest import Virtroot, named

NAME = named("contained")

SCRIPT = """
test -e /proc/self/mountinfo
cat <(echo through a pipe that /dev/fd names) > /boot/made
touch /usr/not-kept
if mount -t tmpfs none /mnt; then exit 9; fi
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engines.connect()


@pytest.fixture(scope="module")
def worker(inv: Virtroot, trixie: Path, engine: Engine) -> Iterator[Builder]:
    image, _ = container.ensure_image(engine, DISTROS["debian"], inv.settings)
    with container.run_builder(engine, image, NAME, inv.settings, "import", shared=True) as made:
        with (trixie / "rootfs.tar.zst").open("rb") as content:
            made.run(archive.unpack_argv(ROOT), stdin=content)
        yield made


def left(inv: Virtroot) -> list[object]:
    client = docker.from_env()
    [mark] = (f"{key}={value}" for key, value in container.make_root_labels(NAME, inv.settings).items())
    return [*client.containers.list(all=True, filters={"label": mark}), *client.images.list(filters={"label": mark})]


def test_a_program_has_a_proc_and_a_dev_and_no_way_to_mount(
    inv: Virtroot, engine: Engine, worker: Builder, tmp_path: Path
) -> None:
    contain = partial(run_container, engine, NAME, inv.settings)
    runner = StageRunner({}, tmp_path / "log", tmp_path / "failed", contain)
    runner.run(Stage("made", (Command(("bash", "-ec", SCRIPT), contained=True),)), worker)
    assert worker.run(["cat", f"{ROOT}/boot/made"]).text == "through a pipe that /dev/fd names"
    assert worker.run(["test", "-e", f"{ROOT}/usr/not-kept"], check=False).returncode == 1
    assert left(inv) == []


def test_what_a_killed_task_left_is_removed(inv: Virtroot, engine: Engine, worker: Builder) -> None:
    killed = run_container(engine, NAME, inv.settings, worker)
    killed.__enter__()
    assert len(left(inv)) == 2
    container.remove_root_containers(engine, NAME, inv.settings)
    assert left(inv) == []
    killed.gen.close()
