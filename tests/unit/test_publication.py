"""A guest appears and disappears whole, whoever is killed meanwhile; nothing that is hidden is taken for rubbish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, place, publication
from pipelines.guest.guest import Guest
from pipelines.guest.place import Place
from pipelines.host.target import Local
from pipelines.libvirt.handover import NAMESPACE
from pipelines.libvirt.hypervisor import Hypervisor, Known
from tests.support.killing import Killing
from tests.unit.test_mixed import parsed

DOMAIN = """<domain><name>NAME</name><uuid>1</uuid><metadata><guest xmlns="{namespace}"><artifact>web/1</artifact>
<root>{pool}/root.web</root><kernel>vmlinuz</kernel></guest></metadata><os><kernel>{boot}/virtroot.web/kernel</kernel></os>
<devices/></domain>"""

# By absolute paths, so that it is not killed itself: libvirt's daemon is not, either.
VIRSH = """#!/bin/sh
case $1 in
    domstate) echo 'shut off' ;;
    define) [ ! -e {machine}/refuses ] || {{ echo unsupported >&2; exit 1; }}
        /bin/cat > {machine}/defined.new && /bin/mv {machine}/defined.new {machine}/defined ;;
    undefine) /bin/rm -- {machine}/defined ;;
esac
"""

#: What is on disk of a guest that has everything.
WHOLE = {"root.web", "snapshots.web", "former.web"}


@dataclass
class Site:
    """A pool, a directory of kernels and a libvirt with at most one domain."""

    hypervisor: Hypervisor
    paths: Place
    machine: Path
    pool: Path
    boot: Path

    @property
    def xml(self) -> str:
        return DOMAIN.format(namespace=NAMESPACE, pool=self.pool, boot=self.boot).replace("NAME", "web")

    @property
    def defined(self) -> bool:
        return (self.machine / "defined").exists()

    def names(self) -> set[str]:
        """Return what is in the pool and in the directory of kernels."""
        return {path.name for directory in (self.pool, self.boot) for path in directory.iterdir()}

    def hidden(self) -> set[str]:
        return {name for name in self.names() if name.startswith(".")}

    def fill(self) -> Guest:
        """Make a guest that has a root, a boot directory, a snapshot and a previous root."""
        paths = (self.paths.root, self.paths.boot, f"{self.paths.snapshots}/3/root", f"{self.paths.formers}/1/root")
        for each in paths:
            Path(each).mkdir(parents=True)
            (Path(each) / "is").write_text("web")
        (self.machine / "defined").write_text(self.xml)
        return guests.find(self.hypervisor, "web")

    def rename(self, name: str) -> None:
        text = (self.machine / "defined").read_text()
        (self.machine / "defined").write_text(text.replace("<name>web</name>", f"<name>{name}</name>"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    machine, pool, boot, programs = (tmp_path / name for name in ("machine", "pool", "boot", "programs"))
    for directory in (machine, pool, boot, programs):
        directory.mkdir()
    monkeypatch.setattr(place, "BOOT", str(boot))
    monkeypatch.setattr(place, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(place, "OFF_LOCK", f"{tmp_path}/locks/off-{{}}.lock")
    (programs / "virsh").write_text(VIRSH.format(machine=machine))
    (programs / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local(), embedded=True)
    hypervisor.virsh_argv.side_effect = lambda *arguments: ["virsh", *arguments]
    hypervisor.state.return_value = "shut off"
    hypervisor.holds.return_value = []

    def domains(**_: object) -> list[Known]:
        found = machine / "defined"
        return [Known("1", parsed(found.read_text()).findtext("name") or "")] if found.exists() else []

    hypervisor.domains.side_effect = domains
    hypervisor.defined.side_effect = lambda name: name in [known.name for known in domains()]
    hypervisor.xml.side_effect = lambda _: parsed((machine / "defined").read_text()) if domains() else None

    def naming(path: str, *, besides: str = "", active: bool = False) -> list[Known]:
        return [known for known in domains() if path in (machine / "defined").read_text() and known.uuid != besides]

    hypervisor.naming.side_effect = naming
    return Site(hypervisor, Place(str(pool), "web"), machine, pool, boot)


def stage(site: Site) -> None:
    """Make what an install publishes."""
    for each in (site.paths.partial_root, site.paths.partial_boot):
        Path(each).mkdir()
        (Path(each) / "is").write_text("new")


def test_what_is_published_has_its_names_and_nothing_else(site: Site) -> None:
    stage(site)
    publication.publish(site.hypervisor, site.paths, site.xml)
    assert site.names() == {"root.web", "virtroot.web"}
    assert [path.name for path in Path(site.paths.root).iterdir()] == ["is"]
    assert [path.name for path in Path(site.paths.boot).iterdir()] == ["is"]


def test_what_libvirt_does_not_take_is_taken_back(site: Site) -> None:
    stage(site)
    (site.machine / "refuses").touch()
    with pytest.raises(VirtrootError, match="libvirt did not take the guest web"):
        publication.publish(site.hypervisor, site.paths, site.xml)
    publication.clear(site.hypervisor, site.paths)
    assert not site.names()


def test_an_install_that_is_killed_anywhere_leaves_a_whole_guest_or_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage(site)
    killing = Killing(tmp_path, monkeypatch, ("mv", "rm", "sync", "virsh"))
    seen = set()
    files = (site.pool, site.boot, site.machine)
    for where in killing.times(files, lambda: publication.publish(site.hypervisor, site.paths, site.xml)):
        seen.add(site.defined)
        if site.defined:
            with hold.hold(site.hypervisor, "web"):
                assert (Path(site.paths.root) / "is").read_text() == "new", where
            assert site.names() == {"root.web", "virtroot.web"}, where
        else:
            publication.refuse_taken(site.hypervisor, site.paths)
            publication.clear(site.hypervisor, site.paths)
            assert not site.names(), where
    assert seen == {True, False}


def test_a_removal_that_is_killed_anywhere_takes_all_or_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guest = site.fill()
    killing = Killing(tmp_path, monkeypatch, ("mv", "rm", "sync", "virsh", "tail"))
    seen = set()
    for where in killing.times((site.pool, site.boot, site.machine), lambda: publication.withdraw(guest)):
        seen.add(site.defined)
        if site.defined:
            with hold.hold(site.hypervisor, "web"):
                pass
            assert site.names() == WHOLE | {"virtroot.web"}, where
            for path in (site.paths.root, site.paths.boot, f"{site.paths.snapshots}/3/root"):
                assert (Path(path) / "is").read_text() == "web", where
        else:
            publication.clear(site.hypervisor, site.paths)
            assert not site.names(), where
    assert seen == {True, False}


def test_what_is_hidden_of_a_guest_without_a_root_is_not_deleted(site: Site) -> None:
    """A removal by an earlier version, which had no journal, was cut short."""
    site.fill()
    Path(site.paths.root).rename(site.paths.partial_root)
    with (
        pytest.raises(VirtrootError, match=r"the root of web, .*/root.web, is missing"),
        hold.hold(site.hypervisor, "web"),
    ):
        pass
    assert (Path(site.paths.partial_root) / "is").read_text() == "web"


def test_a_renamed_guest_is_held_by_the_lock_of_its_root(site: Site) -> None:
    site.fill()
    site.rename("web2")
    staged = Path(site.paths.staged)
    with hold.hold(site.hypervisor, "web2"):
        staged.mkdir()
        for name in ("web2", "web"):
            with pytest.raises(VirtrootError) as raised, hold.hold(site.hypervisor, name):
                pass
            assert "another task works on the guest web" in raised.value.what or name == "web"
        with (
            pytest.raises(VirtrootError, match="another task works on the guest web"),
            hold.new(site.hypervisor, site.paths),
        ):
            pass
        assert staged.is_dir()


@pytest.mark.parametrize("how", [publication.clear, publication.sweep])
def test_what_belongs_to_a_renamed_guest_is_not_deleted_under_its_first_name(site: Site, how: object) -> None:
    """Between define and the end of its journal the machine went down; then the domain was renamed."""
    site.fill()
    site.rename("web2")
    token = ".virtroot-1"
    for directory in (site.paths.root, site.paths.boot):
        (Path(directory) / token).touch()
    Path(site.paths.journal).write_text(f"token {token}\n")
    assert callable(how)
    how(site.hypervisor, site.paths)
    assert (Path(site.paths.root) / "is").read_text() == "web"
    assert (Path(site.paths.boot) / "is").read_text() == "web"
    assert not site.hidden()
    assert not (Path(site.paths.root) / token).exists()


def test_a_root_that_was_restored_in_the_place_of_a_killed_installs_is_kept(site: Site) -> None:
    """Its number and time of birth may be the same: those of a btrfs snapshot are."""
    stage(site)
    Path(site.paths.partial_root).rename(site.paths.root)
    Path(site.paths.journal).write_text("token .virtroot-1\n")
    with pytest.raises(VirtrootError, match="exists already"):
        publication.refuse_taken(site.hypervisor, site.paths)
    (Path(site.paths.root) / ".virtroot-1").touch()
    publication.refuse_taken(site.hypervisor, site.paths)


def test_a_guest_is_kept_off(site: Site) -> None:
    guest = site.fill()
    off = Path(site.paths.off_lock)
    again = hold.keep_off(guest)
    with hold.keep_off(guest), pytest.raises(VirtrootError, match="another task works on the root of web"), again:
        pass
    assert off.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "kept", ["a managed save (virsh managedsave-remove)", "the snapshot old (virsh snapshot-delete)"]
)
def test_a_guest_of_which_libvirt_keeps_a_state_is_not_off(site: Site, kept: str) -> None:
    guest = site.fill()
    site.hypervisor.holds.return_value = [kept]  # type: ignore[attr-defined]
    with pytest.raises(VirtrootError, match="libvirt keeps"), hold.keep_off(guest):
        pass


def test_a_guest_that_runs_is_not_off(site: Site) -> None:
    guest = site.fill()
    site.hypervisor.state.return_value = "paused"  # type: ignore[attr-defined]
    with pytest.raises(VirtrootError, match="the guest web is running") as raised, hold.keep_off(guest, "wait for it"):
        pass
    assert raised.value.hint == "wait for it"
