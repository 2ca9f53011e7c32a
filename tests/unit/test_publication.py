"""A guest appears and disappears whole, whoever is killed meanwhile; nothing that is hidden is taken for rubbish."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import hold, publication
from tests.support.killing import Killing
from tests.support.site import Site, make_site

#: What is on disk of a guest that has everything.
WHOLE = {"root.web", "snapshots.web", "former.web"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return make_site(tmp_path, monkeypatch)


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
    with pytest.raises(VirtrootError, match="libvirt did not accept the guest web"):
        publication.publish(site.hypervisor, site.paths, site.xml)
    publication.clear(site.hypervisor, site.paths)
    assert not site.names()


def test_an_install_that_is_killed_anywhere_leaves_a_whole_guest_or_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage(site)
    killing = Killing(tmp_path, monkeypatch, site.hypervisor, ())
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
    killing = Killing(tmp_path, monkeypatch, site.hypervisor, ("rm",))
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
    staged = Path(site.paths.prepared)
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


@pytest.mark.parametrize("how", [publication.clear, publication.delete_hidden])
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
    site.hypervisor.list_saved_state.return_value = [kept]  # type: ignore[attr-defined]
    with pytest.raises(VirtrootError, match="libvirt keeps"), hold.keep_off(guest):
        pass


def test_a_guest_that_runs_is_not_off(site: Site) -> None:
    guest = site.fill()
    site.hypervisor.state.return_value = "paused"  # type: ignore[attr-defined]
    with pytest.raises(VirtrootError, match="the guest web is running") as raised, hold.keep_off(guest, "wait for it"):
        pass
    assert raised.value.hint == "wait for it"
