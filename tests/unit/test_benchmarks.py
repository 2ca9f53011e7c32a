"""Every benchmark runs to its table, with all that takes long replaced by stand-ins that refuse wrong arguments.

The stand-ins are put where the names come from, and a benchmark is run as its user runs it: new, and by its name.
"""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from pipelines.artifact.artifact import Artifact
from pipelines.builder.container import Builder
from pipelines.builder.inputs import Inputs
from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.host.engine import Container, Engine
from pipelines.host.process import Completed
from pipelines.settings import CHECKOUT, Settings
from tests.mirror import Repository
from tests.unit.artifacts import made


class Stage:
    """Where a benchmark runs: what is not to happen is replaced first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def replace(self, name: str, answer: object = None, **how: Any) -> Any:
        """Replace ``package.module.function`` by a stand-in with its signature that returns ``answer``."""
        module, _, function = name.rpartition(".")
        owner = importlib.import_module(module)
        double = create_autospec(getattr(owner, function), return_value=answer, **how)
        self._monkeypatch.setattr(owner, function, double)
        return double

    def run(self, benchmark: str, *arguments: str) -> list[str]:
        """Run the benchmark and return the lines it printed."""
        for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
            self._monkeypatch.delitem(sys.modules, name)
        self._monkeypatch.setattr(sys, "argv", [benchmark, *arguments])
        runpy.run_module(f"benchmarks.{benchmark}", run_name="__main__", alter_sys=True)
        return self._capsys.readouterr().out.splitlines()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(monkeypatch, capsys)


def test_every_benchmark_is_tested() -> None:
    benchmarks = {path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")} - {"__init__"}
    assert benchmarks <= {name.removeprefix("test_") for name in globals() if name.startswith("test_")}


def test_build(stage: Stage) -> None:
    plain = create_autospec(Container, instance=True)
    engine = create_autospec(Engine, instance=True)
    engine.memory.return_value = 16 << 30
    engine.start.return_value = plain
    run = stage.replace("pipelines.host.process.run", Completed((), 0, b"", b""))
    stage.replace("pipelines.builder.unchanged.unchanged", Artifact(Path("artifact")))
    stage.replace("pipelines.builder.container.image", ("virtroot/builder:1", "sha256:1"))
    stage.replace("pipelines.host.engine.connect", engine)

    *lines, last = stage.run("build", "2")

    tools = ("debootstrap", "mmdebstrap", "mkosi", "mkosi incremental")
    names = [line[:40].rstrip() for line in lines]
    assert names[:8] == [f"{tool}, {where}" for where in ("tmpfs", "disk") for tool in tools]
    assert len(names) == 15
    ratio = r"\d+\.\d\d x [a-z ]+, (tmpfs|disk)"
    for name, line in zip(names, lines, strict=True):
        compared = name.startswith("virtroot") and "ten" not in name
        assert re.fullmatch(rf".{{40}} +\d+\.\d s{f'   {ratio}(, {ratio})*' if compared else ''}", line)
    assert re.fullmatch(r"peak memory of \./inv: \d+ MiB", last)
    # mkosi's installation; then two rounds after one that warms the caches.
    assert plain.run.call_count == 1 + 8 * 3
    plain.remove.assert_called_once_with()
    # What all begin with; then six builds a round.
    assert run.call_count == 12 + 6 * 3
    assert sum("--no-cache" in call.args[0] for call in run.call_args_list) == 2 * 3


def test_boots(stage: Stage) -> None:
    guest = create_autospec(Guest, instance=True, running=True)
    guest.console_tail.return_value = "tag <root> not found"
    stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    stage.replace("pipelines.install.install")
    stage.replace("pipelines.libvirt.connect.connect")
    stage.replace("pipelines.guest.guest.find", guest)
    ended = VirtrootError("the guest ended", "look")
    stage.replace(
        "pipelines.operate.start", side_effect=[50.0, 10.0, 20.0, ended, 50.0, 30.0, 40.0, 35.0, 50.0, 8.0, 9.0, 10.0]
    )
    stage.replace("pipelines.operate.stop", 1.0)
    removed = stage.replace("pipelines.operate.remove")
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("boots", "3")

    assert lines == [
        "debian trixie initramfs-tools: 2 boots  min 10.0  median 15.0  max 20.0 s  failed: 1  tag not found: 3",
        "debian trixie dracut: 3 boots  min 30.0  median 35.0  max 40.0 s  failed: 0  tag not found: 3",
        "debian trixie none: 3 boots  min 8.0  median 9.0  max 10.0 s  failed: 0  tag not found: 3",
    ]
    assert removed.call_count == 3
    cleared.assert_called_once()


def test_pacstrap(stage: Stage) -> None:
    engine = create_autospec(Engine, instance=True)
    worker = create_autospec(Builder, instance=True)
    repository = create_autospec(Repository, instance=True)
    repository.file.return_value = b"a public key"
    repository.url.return_value = "http://192.0.2.1/good/$repo/os/$arch"
    made = stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    stage.replace("pipelines.builder.container.image", ("virtroot/builder:1", "sha256:1"))
    stage.replace("pipelines.host.engine.connect", engine)
    stage.replace("pipelines.builder.container.builder", nullcontext(worker))
    stage.replace("tests.mirror.serve", nullcontext(repository))

    lines = stage.run("pacstrap")

    took = r" +\d+\.\d s"
    ratio = r"   \d+\.\d\d x pacstrap \+ tar"
    names = (r"pacstrap \+ tar", "virtroot")
    rows = [f"{name} +{cache}{took}{ratio}" for cache in ("cold", "warm") for name in names]
    for line, row in zip(lines, [*rows, f"virtroot +warm, nothing changed{took}"], strict=True):
        assert re.fullmatch(row, line)
    assert made.call_count == 4
    assert worker.run.call_count == 3
    assert engine.remove_volume.call_count == 3


def test_night(stage: Stage, tmp_path: Path) -> None:
    def built(inputs: Inputs, settings: Settings) -> Artifact:
        return made(settings.output_dir, inputs.name, "20261101T030000Z-1", good=None)

    said = b"a: nothing changed, golden root a/1\nb: nothing changed, golden root b/1\n"
    stage.replace("pipelines.build.build").side_effect = built
    night = stage.replace("pipelines.host.process.run", Completed((), 0, b"", said))
    engine = stage.replace("pipelines.host.engine.connect", create_autospec(Engine, instance=True))
    first, second = stage.run("night", "2")
    engine().remove_volume.assert_called_once_with("virtroot-cache-benchmark-night-0")
    assert first.startswith("2 recipes built, begun alike")
    assert second.startswith("a night over them, 2 unchanged")
    assert night.call_args.args[0][1:3] == ["nightly", "--recipe"]
