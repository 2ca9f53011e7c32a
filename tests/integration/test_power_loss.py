"""What the power leaves behind: a copy of the block device after each step of a task is mounted and looked at.

The copy has what was written to the device by then, and nothing of what the kernel still kept in memory.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import pytest

from pipelines.artifact.manifest import Rootfs
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, publication, root_source, snapshots, swap
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.pool import place
from pipelines.pool.place import Place
from pipelines.target import durable, programs
from pipelines.target.payload.metadata import NAMESPACE
from pipelines.target.target import Local
from tests.support import artifacts
from tests.support.definitions import parsed
from tests.support.guests import make_source
from tests.support.site import DOMAIN

#: Files of a root, and bytes of each.
FILES, SIZE = 50, 9000

#: After each of these a copy of the device is taken.
COMMANDS = ("mv", "rm", "sync", "virsh")

# The test's own copying is not to be copied.
SHIM = """#!/bin/sh
{real} "$@"
status=$?
read -r number < {count}
number=$((number + 1))
echo "$number" > {count}
/bin/cp --sparse=always {device} {copies}/$number
exit "$status"
"""

# libvirt flushes what it writes, but not the directory that it is in.
VIRSH = """#!/bin/sh
case $1 in
    domstate) echo 'shut off' ;;
    define) for last; do :; done
        /bin/cat "$last" > {disk}/libvirt/new && /bin/sync {disk}/libvirt/new &&
            /bin/mv {disk}/libvirt/new {disk}/libvirt/web.xml ;;
    undefine) /bin/rm -- {disk}/libvirt/web.xml ;;
esac
"""


@dataclass
class Machine:
    """A disk with a pool, a directory of kernels, libvirt's definitions and an output directory; and its copies."""

    directory: Path
    hypervisor: Hypervisor
    copied: int = 0

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    @property
    def device(self) -> Path:
        return self.directory / "device"

    @property
    def copies(self) -> Path:
        return self.directory / "copies"

    @property
    def paths(self) -> Place:
        return Place(str(self.disk / "pool"), "web")

    @property
    def xml(self) -> str:
        pool, boot = self.disk / "pool", self.disk / "boot"
        return DOMAIN.format(namespace=NAMESPACE, pool=pool, boot=boot).replace("NAME", "web")

    @property
    def defined(self) -> bool:
        return (self.disk / "libvirt/web.xml").exists()

    def fill(self, directory: str | Path, what: str) -> None:
        """Write a tree as tar does: nothing is flushed."""
        Path(directory).mkdir(parents=True)
        for number in range(FILES):
            (Path(directory) / f"{number}").write_bytes(what.encode().ljust(SIZE, b"."))

    def holds(self, directory: str | Path) -> str:
        """Return what a tree was filled with, if it is whole."""
        contents = {(Path(directory) / f"{number}").read_bytes() for number in range(FILES)}
        assert len(contents) == 1, f"{directory} is mixed: {[each[:20] for each in contents]}"
        (content,) = contents
        assert len(content) == SIZE, f"{directory} has files of {len(content)} bytes"
        return content.rstrip(b".").decode()

    def define(self) -> None:
        (self.disk / "libvirt/web.xml").write_text(self.xml)
        subprocess.run(["sync", "--file-system", str(self.disk)], check=True)

    @contextmanager
    def mounted(self, device: Path) -> Iterator[None]:
        # Neither of them is anything that a task may count on.
        options = "loop,commit=300,noauto_da_alloc"
        subprocess.run(["mount", "-o", options, str(device), str(self.disk)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", str(self.disk)], check=True)

    def copy(self, *_: object, **__: object) -> None:
        self.copied += 1
        shutil.copyfile(self.device, self.copies / f"{self.copied}")

    def each(self, prepare: Callable[[], None], task: Callable[[], object]) -> Iterator[str]:
        """Run a task on a prepared disk; yield for each step that it took, with what the disk had then in its place."""
        with self.mounted(self.device):
            prepare()
            subprocess.run(["sync", "--file-system", str(self.disk)], check=True)
            self._shim()
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("PATH", str(self.directory / "shims"), prepend=":")
                task()
            # Right after it has said that it is done.
            count = int((self.directory / "count").read_text()) + self.copied + 1
            shutil.copyfile(self.device, self.copies / f"{count}")
        found = sorted(self.copies.iterdir(), key=lambda path: int(path.name))
        assert len(found) > 1
        for path in found:
            last = ", the last" if path == found[-1] else ""
            with self.mounted(path):
                yield f"step {path.name} of {len(found)}{last}"
            path.unlink()

    def _shim(self) -> None:
        (self.directory / "count").write_text("0\n")
        (self.directory / "shims").mkdir()
        for command in COMMANDS:
            shim = self.directory / "shims" / command
            real = shutil.which(command)
            shim.write_text(
                SHIM.format(real=real, count=self.directory / "count", device=self.device, copies=self.copies)
            )
            shim.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in ("disk", "copies", "programs"):
        (tmp_path / name).mkdir()
    hypervisor: Any = create_autospec(Hypervisor, instance=True, target=Local(), embedded=True)
    machine = Machine(tmp_path, hypervisor)
    subprocess.run(["truncate", "--size=24M", str(machine.device)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(machine.device)], check=True)
    with machine.mounted(machine.device):
        for name in ("pool", "boot", "libvirt", "output"):
            (machine.disk / name).mkdir()
    (tmp_path / "programs/virsh").write_text(VIRSH.format(disk=machine.disk))
    (tmp_path / "programs/virsh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    monkeypatch.setattr(place, "BOOT", str(machine.disk / "boot"))
    monkeypatch.setattr(place, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(place, "OFF_LOCK", f"{tmp_path}/locks/off-{{}}.lock")
    for module in (publication, swap):
        monkeypatch.setattr(module, "DEFINITIONS", str(machine.disk / "libvirt"))
    hypervisor.virsh_argv.side_effect = lambda *arguments: ["virsh", *arguments]
    hypervisor.state.return_value = "shut off"
    hypervisor.list_saved_state.return_value = []
    definition = machine.disk / "libvirt/web.xml"
    hypervisor.domains.side_effect = lambda **_: [ListedDomain("1", "web")] if machine.defined else []
    hypervisor.find_domains_using.side_effect = lambda path, besides="", **_: (
        [ListedDomain("1", "web")] if machine.defined and besides != "1" and path in definition.read_text() else []
    )
    hypervisor.xml.side_effect = lambda _: parsed(definition.read_text()) if machine.defined else None
    return machine


def test_a_copy_of_the_device_lacks_what_was_not_flushed(machine: Machine) -> None:
    """The control of these tests: this is what they would find."""

    def task() -> None:
        machine.fill(machine.disk / "pool/.tree", "new")
        subprocess.run(["mv", str(machine.disk / "pool/.tree"), str(machine.disk / "pool/tree")], check=True)

    for _ in machine.each(lambda: None, task):
        tree = machine.disk / "pool/tree"
        assert not tree.exists() or {path.stat().st_size for path in tree.iterdir()} == {0}


def test_an_install(machine: Machine) -> None:
    paths = machine.paths

    def task() -> None:
        machine.fill(paths.partial_root, "new")
        machine.fill(paths.partial_boot, "new")
        publication.publish(machine.hypervisor, paths, machine.xml)

    seen = []
    for step in machine.each(lambda: None, task):
        seen.append(machine.defined)
        if machine.defined:
            assert (machine.holds(paths.root), machine.holds(paths.boot)) == ("new", "new"), step
            with hold.hold(machine.hypervisor, "web"):
                pass
        else:
            publication.refuse_taken(machine.hypervisor, paths)
            publication.clear(machine.hypervisor, paths)
            assert not list((machine.disk / "pool").iterdir()), step
    assert not seen[0]
    assert seen[-1], "it was said to be done, and is not"


def prepared(machine: Machine) -> None:
    machine.fill(machine.paths.root, "old")
    machine.fill(machine.paths.boot, "old")
    machine.define()


def test_a_removal(machine: Machine) -> None:
    paths = machine.paths
    seen = []
    for step in machine.each(
        lambda: prepared(machine), lambda: publication.withdraw(guests.get(machine.hypervisor, "web"))
    ):
        seen.append(machine.defined)
        if machine.defined:
            with hold.hold(machine.hypervisor, "web"):
                pass
            assert (machine.holds(paths.root), machine.holds(paths.boot)) == ("old", "old"), step
        else:
            publication.delete_hidden(machine.hypervisor, paths)
    assert seen[0]
    assert not seen[-1]


def test_a_snapshot(machine: Machine) -> None:
    seen = []
    for step in machine.each(
        lambda: prepared(machine), lambda: snapshots.take(guests.get(machine.hypervisor, "web"), "3")
    ):
        with hold.hold(machine.hypervisor, "web") as guest:
            assert machine.holds(guest.root) == "old"
            seen.append("3" in snapshots.list_snapshots(guest))
            if seen[-1]:
                assert machine.holds(f"{machine.paths.snapshots}/3/root") == "old", step
    assert not seen[0]
    assert seen[-1]


def test_a_restored_snapshot(machine: Machine) -> None:
    def prepare() -> None:
        prepared(machine)
        guest = guests.get(machine.hypervisor, "web")
        snapshots.take(guest, "3")
        shutil.rmtree(guest.root)
        machine.fill(guest.root, "newer")

    seen = []
    for step in machine.each(
        prepare, lambda: snapshots.restore(guests.get(machine.hypervisor, "web"), "3", "replaced")
    ):
        with hold.hold(machine.hypervisor, "web") as guest:
            seen.append(machine.holds(guest.root))
            if seen[-1] == "old":
                assert machine.holds(f"{machine.paths.snapshots}/replaced/root") == "newer", step
    assert seen[0] == "newer"
    assert seen[-1] == "old"


def test_an_upgrade(machine: Machine) -> None:
    paths = machine.paths
    final = f"{paths.previous_roots}/20261124T000000Z"

    def task() -> None:
        guest = guests.get(machine.hypervisor, "web")
        definition = parsed((machine.disk / "libvirt/web.xml").read_text())
        Path(paths.prepared).mkdir()
        machine.fill(f"{paths.prepared}/root", "new")
        machine.fill(paths.partial_boot, "new")
        swap.describe(guest.target, f"{paths.prepared}/next", root_source.read(definition), guest.boot)
        now = make_source("web/2")
        root_source.write(definition, guest.boot, now)
        swap.swap_roots(guest, paths, paths.prepared, final, definition, now)

    seen = []
    with patch.object(machine.__class__, "paths", paths):
        for step in machine.each(lambda: prepared(machine), task):
            with hold.hold(machine.hypervisor, "web") as guest:
                seen.append(guest.source.artifact)
                which = {"web/1": "old", "web/2": "new"}[guest.source.artifact]
                assert (machine.holds(guest.root), machine.holds(guest.boot)) == (which, which), step
                if which == "new":
                    assert machine.holds(f"{final}/root") == "old", step
    assert seen[0] == "web/1"
    assert seen[-1] == "web/2"


def test_a_build_and_its_promotion(machine: Machine) -> None:
    """What has a name is whole: the build, the links to it, the notes of promotions."""
    store = Store(machine.disk / "output")
    content = b"root" * 100_000

    def task() -> None:
        store.claim("web", machine.directory / "web.yaml")
        with store.new_build("web", "1") as artifact:
            artifact.tarball.write_bytes(content)
            good = artifacts.made(machine.directory / "elsewhere", "web", "1")
            rootfs = Rootfs(sha256="0" * 64, size=len(content), unpacked_size=2, entries=3)
            artifact.describe(good.manifest.model_copy(update={"rootfs": rootfs}))
        store.golden("web").promote(store.builds("web")[0])

    seen = []
    replaced = durable.os.replace  # type: ignore[attr-defined]

    def replace(*arguments: Any) -> None:
        replaced(*arguments)
        machine.copy()

    with patch.object(durable.os, "replace", replace):  # type: ignore[attr-defined]
        for step in machine.each(lambda: None, task):
            builds = store.builds("web")
            for artifact in builds:
                assert artifact.tarball.read_bytes() == content, step
                assert artifact.manifest.rootfs.size == len(content), step
            newest, golden = store.newest("web"), store.golden("web")
            assert newest is None or newest.exists, step
            assert golden.artifact is None or golden.artifact.good, step
            seen.append((bool(builds), newest is not None, golden.artifact is not None))
    assert seen[0] == (False, False, False)
    assert seen[-1] == (True, True, True)


def test_what_is_written_into_a_root_and_beside_it(machine: Machine) -> None:
    """A file in a root or in a boot directory has its former content or the new one."""

    def prepare() -> None:
        prepared(machine)
        programs.write(Local(), machine.paths.root, "etc/hostname", 0o644, "old")

    def task() -> None:
        programs.write(Local(), machine.paths.root, "etc/hostname", 0o644, "new")
        machine.copy()
        durable.put(Local(), f"{machine.paths.boot}/keep", b"[]", 0o600)

    seen = []
    for step in machine.each(prepare, task):
        assert (Path(machine.paths.root) / "etc/hostname").read_text() in ("old", "new"), step
        kept = Path(machine.paths.boot) / "keep"
        assert not kept.exists() or kept.read_bytes() == b"[]", step
        seen.append(kept.exists())
    assert seen[-1]
    with pytest.raises(VirtrootError):
        durable.put(Local(), f"{machine.directory}/nowhere/keep", b"[]", 0o600)
