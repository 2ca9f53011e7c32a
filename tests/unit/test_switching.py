"""A guest gets another root: killed anywhere, it has the old one or the new one, and the next task does the rest."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import PropertyMock, create_autospec, patch

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import place, switching
from pipelines.guest.domain import Made, made, remade
from pipelines.guest.guest import Guest
from pipelines.guest.place import Place
from pipelines.host.target import Local
from pipelines.libvirt import beside
from pipelines.libvirt.handover import NAMESPACE
from pipelines.libvirt.hypervisor import Hypervisor
from tests.unit.test_mixed import parsed

OLD = Made("web/1", "vmlinuz", "initrd.img", "root=root old")
NEW = Made("web/2", "boot/vmlinuz-linux", "", "root=root new")

DOMAIN = f"""<domain><name>web</name><metadata><guest xmlns="{NAMESPACE}"><artifact>web/1</artifact><root>ROOT</root>
<kernel>vmlinuz</kernel><initrd>initrd.img</initrd></guest></metadata><os><type>hvm</type><kernel>K</kernel>
<initrd>BOOT/initrd</initrd><cmdline>root=root old</cmdline></os><devices/></domain>"""

#: Counts what is run, and ends who runs it, before the one that is named or after it.
SHIM = """#!/bin/sh
read -r number < {count}
number=$((number + 1))
echo "$number" > {count}
[ "$number" != {before} ] || kill -9 "$PPID"
{real} "$@"
status=$?
[ "$number" != {after} ] || kill -9 "$PPID"
exit "$status"
"""

#: A guest that is off, until somebody writes down what libvirt is to say next.
VIRSH = """#!/bin/sh
if [ "$1" = domstate ]; then
    if [ -s {pool}/states ]; then head -n 1 {pool}/states; sed -i 1d {pool}/states; else echo 'shut off'; fi
    exit
fi
for last; do :; done
cat "$last" > {pool}/defined
"""

COMMANDS = ("mv", "rm", "mkdir", "sync", "chmod", "python3", "virsh")


@dataclass
class Site:
    """A pool and a directory of kernels with one guest and a root that is to be its next."""

    guest: Guest
    paths: Place
    pool: Path
    boot: Path

    @property
    def final(self) -> str:
        return f"{self.paths.formers}/20261124T000000Z"

    def switch(self) -> None:
        definition = parsed(DOMAIN)
        switching.describe(self.guest.target, f"{self.paths.staged}/next", made(definition), self.guest.boot)
        remade(definition, self.guest.boot, NEW)
        switching.switch(self.guest, self.paths, self.paths.staged, self.final, definition, NEW)

    def which(self) -> tuple[str, str, str]:
        """Return what the root, the boot directory and libvirt have: ``old`` or ``new`` each."""
        defined = (self.pool / "defined").read_text()
        domain = "new" if "web/2" in defined else "old"
        return (self.pool / "root.web/is").read_text(), (self.boot / "virtroot.web/is").read_text(), domain


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    pool, boot, programs = (tmp_path / name for name in ("pool", "boot", "programs"))
    for directory in (pool, boot, programs):
        directory.mkdir()
    monkeypatch.setattr(place, "BOOT", str(boot))
    paths = Place(str(pool), "web")
    for made_there, what in ((paths.root, "old"), (f"{paths.staged}/root", "new"), (paths.boot, "old"),
                            (paths.partial_boot, "new")):  # fmt: skip
        Path(made_there).mkdir(parents=True)
        (Path(made_there) / "is").write_text(what)
    (Path(paths.boot) / "manifest.json").write_text("{}")
    (pool / "defined").write_text(DOMAIN)
    virsh = programs / "virsh"
    virsh.write_text(VIRSH.format(pool=pool))
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local())
    hypervisor.virsh_argv.return_value = ("virsh",)
    hypervisor.state.return_value = "shut off"
    hypervisor.xml.side_effect = lambda _: parsed((pool / "defined").read_text())
    guest = Guest(hypervisor, "web", "1", OLD.artifact, paths.root, paths.boot, OLD.kernel, OLD.initrd, "")
    return Site(guest, paths, pool, boot)


def shims(site: Site, before: int = 0, after: int = 0) -> None:
    """Let the commands of the switch count themselves, and be the last one at a number."""
    count = site.pool.parent / "count"
    count.write_text("0")
    directory = site.pool.parent / "shims"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for command in COMMANDS:
        real = shutil.which(command)
        shim = directory / command
        shim.write_text(SHIM.format(count=count, before=before, after=after, real=real))
        shim.chmod(0o755)


def test_root_boot_directory_and_domain_change_together_and_the_former_is_kept(site: Site) -> None:
    site.switch()
    assert site.which() == ("new", "new", "new")
    final = Path(site.final)
    assert (final / "root/is").read_text() == "old"
    assert switching.described(Local(), f"{final}/about") == OLD
    assert (final / "about/manifest.json").read_text() == "{}"
    assert {path.name for path in final.iterdir()} == {"root", "about"}
    assert sorted(path.name for path in site.pool.iterdir()) == ["defined", "former.web", "root.web"]
    assert [path.name for path in site.boot.iterdir()] == ["virtroot.web"]
    defined = parsed((site.pool / "defined").read_text())
    assert made(defined) == NEW
    assert defined.find("os/initrd") is None


def test_what_libvirt_does_not_take_changes_nothing(site: Site) -> None:
    virsh = site.pool.parent / "programs/virsh"
    virsh.write_text(virsh.read_text().replace("for last;", "echo unsupported >&2; exit 1; for last;"))
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        site.switch()
    assert "unsupported" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.switching).exists()


def test_a_guest_that_was_started_keeps_its_root(site: Site) -> None:
    with (
        patch.object(Guest, "running", new_callable=PropertyMock, return_value=True),
        pytest.raises(VirtrootError, match="was started meanwhile"),
    ):
        site.switch()
    assert site.which() == ("old", "old", "old")


@pytest.mark.parametrize("states", [["running"], ["shut off", "running"], ["paused"]])
def test_a_guest_that_libvirt_starts_meanwhile_keeps_its_root(site: Site, states: list[str]) -> None:
    (site.pool / "states").write_text("".join(f"{each}\n" for each in states))
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        site.switch()
    assert "the guest runs by now" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.switching).exists()
    assert (Path(site.paths.staged) / "root/is").read_text() == "new"


def test_what_was_written_down_and_not_begun_is_never_done_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(switching, "_finish", lambda *_, **__: None)
    site.switch()
    monkeypatch.undo()
    monkeypatch.setattr(place, "BOOT", str(site.boot))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    monkeypatch.setattr(guests, "find", lambda *_: site.guest)
    assert switching.pending(site.guest)
    switching.finish(site.guest)
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.switching).exists()


@pytest.mark.parametrize("running", [False, True])
def test_what_libvirt_does_not_take_any_more_is_undone_and_nothing_of_it_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: bool
) -> None:
    """The machine went down after the exchange, libvirt is another one since, and the guest may have run on it."""
    monkeypatch.setattr(guests, "find", lambda *_: site.guest)
    with monkeypatch.context() as patched:
        patched.setattr(switching, "_finish", lambda *_, **__: None)
        site.switch()
    beside.exchange(Local(), f"{site.paths.staged}/root", site.paths.root)
    virsh = tmp_path / "programs/virsh"
    virsh.write_text(virsh.read_text().replace("for last;", "echo unsupported >&2; exit 1; for last;"))
    if running:
        (site.pool / "states").write_text("running\n")
        with pytest.raises(VirtrootError, match="web keeps the root that it has"):
            switching.finish(site.guest)
        assert (Path(site.paths.root) / "is").read_text() == "new"
        assert switching.pending(site.guest)
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        switching.finish(site.guest)
    assert f"is kept as {site.final}" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert (Path(site.final) / "root/is").read_text() == "new"
    switching.finish(site.guest)


def test_what_is_begun_is_finished_also_without_one_step_for_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the three renames that stand for one where a file system cannot exchange directories."""
    monkeypatch.setattr(guests, "find", lambda *_: site.guest)
    root, staged = Path(site.paths.root), Path(site.paths.staged) / "root"
    aside = root.with_name(f"{root.name}@aside")
    with monkeypatch.context() as patched:
        patched.setattr(switching, "_finish", lambda *_, **__: None)
        site.switch()
    journal = Path(site.paths.switching).read_bytes()
    root.rename(aside)
    switching.finish(site.guest)
    assert site.which() == ("old", "old", "old")
    Path(site.paths.switching).write_bytes(journal)
    root.rename(aside)
    staged.rename(root)
    switching.finish(site.guest)
    assert site.which() == ("new", "new", "new")
    assert (Path(site.final) / "root/is").read_text() == "old"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_it_has_one_root_and_the_next_task_does_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    pristine = tmp_path / "pristine"
    shutil.copytree(tmp_path / "pool", pristine / "pool", symlinks=True)
    shutil.copytree(tmp_path / "boot", pristine / "boot", symlinks=True)
    shims(site)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "shims"), prepend=":")
        site.switch()
    steps = int((tmp_path / "count").read_text())
    assert steps > 10
    seen = set()
    for number in range(1, steps + 1):
        for name in ("pool", "boot"):
            shutil.rmtree(tmp_path / name)
            shutil.copytree(pristine / name, tmp_path / name, symlinks=True)
        shims(site, **{when: number})
        with monkeypatch.context() as patched, suppress(VirtrootError):
            patched.setenv("PATH", str(tmp_path / "shims"), prepend=":")
            site.switch()
        assert site.which()[0] in ("old", "new"), number
        with patch.object(guests, "find", return_value=site.guest):
            switching.finish(site.guest)
        left = site.which()
        assert left in (("old", "old", "old"), ("new", "new", "new")), (number, left)
        seen.add(left[0])
        assert not Path(site.paths.switching).exists()
        other = Path(site.final if left[0] == "new" else site.paths.staged) / "root/is"
        assert other.read_text() == ("old" if left[0] == "new" else "new")
    assert seen == {"old", "new"}
