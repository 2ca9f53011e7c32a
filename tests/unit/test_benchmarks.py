"""Every benchmark runs to its table, with all that takes long replaced by stand-ins that refuse wrong arguments.

The stand-ins are put where the names come from, and a benchmark is run as its user runs it: new, and by its name.
"""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import docker
import pytest

import benchmarks
from pipelines.artifact.artifact import Artifact
from pipelines.builder.container import Builder
from pipelines.builder.inputs import Inputs
from pipelines.context import CommandContext
from pipelines.engine.engine import Container, Engine
from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.settings import CHECKOUT
from pipelines.target.target import Local
from tests.mirror import Repository
from tests.support.artifacts import made
from tests.support.definitions import parsed


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
            self._monkeypatch.delattr(benchmarks, name.partition(".")[2], raising=False)
        self._monkeypatch.setattr(sys, "argv", [benchmark, *arguments])
        runpy.run_module(f"benchmarks.{benchmark}", run_name="__main__", alter_sys=True)
        return self._capsys.readouterr().out.splitlines()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(monkeypatch, capsys)


def test_every_benchmark_is_tested() -> None:
    there = {path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")} - {"__init__"}
    assert there <= {name.removeprefix("test_") for name in globals() if name.startswith("test_")}


def test_build(stage: Stage) -> None:
    plain = create_autospec(Container, instance=True)
    engine = create_autospec(Engine, instance=True)
    engine.memory.return_value = 16 << 30
    engine.start.return_value = plain
    run = stage.replace("pipelines.host.process.run", Completed((), 0, b"", b""))
    stage.replace("pipelines.builder.reuse.find_unchanged", Artifact(Path("artifact")))
    stage.replace("pipelines.builder.container.ensure_image", ("virtroot/builder:1", "sha256:1"))
    stage.replace("pipelines.engine.engine.connect", engine)

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
    guest.read_console_tail.return_value = "tag <root> not found"
    stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    stage.replace("pipelines.install.install")
    stage.replace("pipelines.libvirt.connect.connect")
    stage.replace("pipelines.guest.guest.get", guest)
    ended = VirtrootError("the guest ended", "look")
    stage.replace(
        "pipelines.start.start", side_effect=[50.0, 10.0, 20.0, ended, 50.0, 30.0, 40.0, 35.0, 50.0, 8.0, 9.0, 10.0]
    )
    stage.replace("pipelines.start.stop", 1.0)
    removed = stage.replace("pipelines.remove.remove")
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("boots", "3")

    assert lines == [
        "debian trixie initramfs-tools: 2 boots  min 10.0  median 15.0  max 20.0 s  failed: 1  tag not found: 3",
        "debian trixie dracut: 3 boots  min 30.0  median 35.0  max 40.0 s  failed: 0  tag not found: 3",
        "debian trixie none: 3 boots  min 8.0  median 9.0  max 10.0 s  failed: 0  tag not found: 3",
    ]
    assert removed.call_count == 3
    cleared.assert_called_once()


def test_caches(stage: Stage) -> None:
    guest = create_autospec(Guest, instance=True, uuid="uuid", root="/pool/root.web")
    guest.name, guest.target = "web", create_autospec(Local, instance=True)
    guest.hypervisor = create_autospec(Hypervisor, instance=True)
    guest.hypervisor.xml.side_effect = lambda _: parsed(
        "<domain><metadata/><os><cmdline>root=root</cmdline></os><devices><filesystem/></devices></domain>"
    )
    built = stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    installed = stage.replace("pipelines.install.install")
    stage.replace("pipelines.libvirt.connect.connect")
    stage.replace("pipelines.guest.guest.get", guest)
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("boots", "2", "caches")

    names = ["ext4 on virtio-blk", "cache auto", "cache mixed", "cache always", "cache mixed, none"]
    assert [line[:24].rstrip() for line in lines] == names
    for line in lines:
        assert re.fullmatch(r".{24}( (min|median|max) +\d+\.\d ?){3} s   \d+\.\d\d x ext4 on virtio-blk", line), line
    assert [call.args[0].plan.recipe.generator for call in built.call_args_list] == ["initramfs-tools", "none"]
    assert [call.args[2].cache for call in installed.call_args_list] == ["auto", "mixed", "always", "mixed", "auto"]
    (defined,) = [call for call in guest.hypervisor.virsh.call_args_list if call.args[0] == "define"]
    disk = parsed(defined.kwargs["stdin"].decode())
    assert disk.find("devices/filesystem") is None
    assert disk.findtext("os/cmdline") == "root=/dev/vda rootfstype=ext4 rw console=ttyS0"
    # Two boots of each, after one that is not counted.
    assert guest.wait.call_count == 5 * 3
    cleared.assert_called_once()


def test_acls(stage: Stage) -> None:
    guest = create_autospec(Guest, instance=True, uuid="uuid")
    guest.name, guest.target = "benchmark-acls", create_autospec(Local, instance=True)
    guest.hypervisor = create_autospec(Hypervisor, instance=True)
    device = '<filesystem><driver type="virtiofs"/><target dir="root"/></filesystem>'
    guest.hypervisor.xml.side_effect = lambda _: parsed(f"<domain><devices>{device}</devices></domain>")
    stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    stage.replace("pipelines.install.install")
    stage.replace("pipelines.libvirt.connect.connect")
    stage.replace("pipelines.guest.guest.get", guest)
    stage.replace("pipelines.libvirt.host_files.install_wrapper")
    stage.replace("pipelines.start.start", side_effect=[50.0, 20.0, 22.0, 10.0, 11.0])
    stage.replace("pipelines.start.stop", 1.0)
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("acls", "2")

    assert lines == [
        "without ACLs  cache always  min  10.0  median  15.0  max  20.0 s   1.00",
        "with ACLs     cache always  min  11.0  median  16.5  max  22.0 s   1.10",
    ]
    defined = [parsed(call.kwargs["stdin"].decode()) for call in guest.hypervisor.virsh.call_args_list]
    named = [each.find("devices/filesystem/binary").get("path").rpartition("-")[2] for each in defined]  # type: ignore[union-attr]
    assert named == ["acl", "plain", "acl", "plain", "acl"]
    cleared.assert_called_once()


def test_pacstrap(stage: Stage) -> None:
    engine = create_autospec(Engine, instance=True)
    worker = create_autospec(Builder, instance=True)
    repository = create_autospec(Repository, instance=True)
    repository.file.return_value = b"a public key"
    repository.url.return_value = "http://192.0.2.1/good/$repo/os/$arch"
    made = stage.replace("pipelines.build.build", Artifact(Path("artifact")))
    stage.replace("pipelines.builder.container.ensure_image", ("virtroot/builder:1", "sha256:1"))
    stage.replace("pipelines.engine.engine.connect", engine)
    stage.replace("pipelines.builder.container.run_builder", nullcontext(worker))
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
    def built(inputs: Inputs, ctx: CommandContext) -> Artifact:
        return made(ctx.settings.output_dir, inputs.name, "20261101T030000Z-1", good=None)

    said = b"a: nothing changed, golden root a/1\nb: nothing changed, golden root b/1\n"
    stage.replace("pipelines.build.build").side_effect = built
    night = stage.replace("pipelines.host.process.run", Completed((), 0, b"", said))
    engine = stage.replace("pipelines.engine.engine.connect", create_autospec(Engine, instance=True))
    first, second = stage.run("night", "2")
    engine().remove_volume.assert_called_once()
    assert engine().remove_volume.call_args.args[0].startswith("virtroot-cache-benchmark-night-0-")
    assert first.startswith("2 recipes built, begun alike")
    assert second.startswith("a night over them, 2 unchanged")
    assert night.call_args.args[0][1:3] == ["nightly", "--recipe"]


def test_clone(stage: Stage, tmp_path: Path) -> None:
    """The file systems are this one, where nothing is mounted, shared or made a snapshot of."""
    artifact = made(tmp_path, "web", "20261101T030000Z-1")
    artifact.tarball.touch()
    used = iter(range(0, 1 << 40, 1 << 20))

    def run(argv: Sequence[str], **_: Any) -> Completed:
        said = f"Used\n{next(used)}\n" if argv[0] == "df" else "null" if "-I" in argv else ""
        return Completed(tuple(argv), 0, said.encode(), b"")

    stage.replace("pipelines.setup.ensure_programs")
    commands = stage.replace("pipelines.host.process.run")
    commands.side_effect = run
    layered = stage.replace("pipelines.pool.clone_methods.make_layer")
    stage.replace("pipelines.target.programs.digest", "0" * 64)
    unmounted = stage.replace("pipelines.target.programs.unmount_layers")

    lines = stage.run("clone", "2", str(artifact.directory))

    common = ["GNU tar", "bsdtar", "unpacked", "cp", "copy", "cp --reflink", "reflink"]
    assert [(line[:6].strip(), line[7:21].strip()) for line in lines] == [
        *(("btrfs", name) for name in [*common, "snapshot"]),
        *(("xfs", name) for name in [*common, "overlay"]),
    ]
    ratio = r"\d+\.\d\d x [a-zA-Z -]+"
    for line in lines:
        compared = any(f" {name} " in line for name in ("unpacked", "copy", "reflink")) and "cp --" not in line[:21]
        assert re.fullmatch(rf".{{21}} +\d+ ms +1\.0 MiB{f'   {ratio}(, {ratio})*' if compared else ''}", line)
    assert layered.call_count == unmounted.call_count == 3
    assert sum(call.args[0][0] == "umount" for call in commands.call_args_list) == 2


def test_run(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The task is stood in for by a program that prints what the guest would."""
    artifact = made(tmp_path, "web", "20261101T030000Z-1")
    (tmp_path / "inv").write_text('#!/bin/sh\nshift 4; exec "$@"\n')
    (tmp_path / "inv").chmod(0o755)
    monkeypatch.setattr("pipelines.settings.CHECKOUT", tmp_path)
    stage.replace("pipelines.build.build", artifact)
    stage.replace("pipelines.install.install")
    stage.replace("pipelines.start.start", 20.0)
    stage.replace("pipelines.start.stop", 1.0)
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("run", "2")

    assert lines[0] == "boot alone             20.0 s   1.00 x the boot alone"
    for line, what in zip(lines[1:], ("first output", "thrown away"), strict=True):
        assert re.fullmatch(rf"run, {what} +0\.\d s   0\.\d\d x the boot alone", line)
    cleared.assert_called_once()


def test_upgrade(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The task is stood in for by a program that says what it would, and the file systems by names."""
    artifact = made(tmp_path, "web", "20261101T030000Z-1")
    artifact.tarball.touch()
    said = "echo moves is off after 1.5 s >&2; echo moves is up after 20.0 s >&2"
    (tmp_path / "inv").write_text(f'#!/bin/sh\nprintf "%s " "$@" >> "$0.called"; {said}\n')
    (tmp_path / "inv").chmod(0o755)
    guest = create_autospec(Guest, instance=True, root="/pool/root.web")
    guest.target = create_autospec(Local, instance=True)
    monkeypatch.setattr("pipelines.settings.CHECKOUT", tmp_path)
    stage.replace("pipelines.setup.ensure_programs")
    commands = stage.replace("pipelines.host.process.run", Completed((), 0, b"/dev/loop0\n", b""))
    volumes = stage.replace("docker.from_env", create_autospec(docker.DockerClient, instance=True, volumes=MagicMock()))
    stage.replace("pipelines.install.install")
    stage.replace("pipelines.start.start", 20.0)
    stage.replace("pipelines.start.stop", 1.0)
    stage.replace("pipelines.libvirt.connect.connect")
    stage.replace("pipelines.guest.guest.get", guest)
    cleared = stage.replace("pipelines.libvirt.embedded.stop")

    lines = stage.run("upgrade", "2", str(artifact.directory))

    ways = {"btrfs": ("snapshot", "reflink"), "xfs": ("reflink", "overlay", "copy")}
    named = [(kind, way) for kind, each in ways.items() for way in (*each, "by hand")]
    for line, (kind, way) in zip(lines, named, strict=True):
        off = "0.0" if way == "by hand" else "1.5"
        assert re.fullmatch(rf"{kind:<6} {way:<10}    {off} s off   \d+\.\d\d x by hand", line), line
    # Two rounds after one that is not counted.
    called = (tmp_path / "inv.called").read_text()
    assert called.count("--restart") == 5 * 3
    assert called.count("--clone overlay") == 3
    assert guest.target.run.call_count == 2 * 3
    assert cleared.call_count == 4
    assert [call.args[0][1] for call in commands.call_args_list if call.args[0][0] == "losetup"] == [
        "--find", "--detach", "--find", "--detach"]  # fmt: skip
    created = volumes.return_value.volumes.create.call_args_list
    assert [call.kwargs["driver_opts"]["type"] for call in created] == ["btrfs", "xfs"]
