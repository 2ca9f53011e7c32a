"""A guest gets another root: killed anywhere, it has the old one or the new one, and the next task does the rest."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import PropertyMock, create_autospec, patch

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import root_source, swap
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import place
from pipelines.pool.place import Place
from pipelines.target import programs
from pipelines.target.payload.metadata import NAMESPACE
from pipelines.target.target import Local
from tests.support.definitions import parsed
from tests.support.guests import make_guest, make_source
from tests.support.killing import Killing

OLD = make_source("web/1", "vmlinuz", "initrd.img", "root=root old")
NEW = make_source("web/2", "boot/vmlinuz-linux", "", "root=root new")

DOMAIN = f"""<domain><name>web</name><metadata><guest xmlns="{NAMESPACE}"><artifact>web/1</artifact><root>ROOT</root>
<kernel>vmlinuz</kernel><initrd>initrd.img</initrd></guest></metadata><os><type>hvm</type><kernel>K</kernel>
<initrd>BOOT/initrd</initrd><cmdline>root=root old</cmdline></os><devices/></domain>"""

#: A guest that is off, until somebody writes down what libvirt is to say next.
VIRSH = """#!/bin/sh
if [ "$1" = domstate ]; then
    if [ -s {pool}/states ]; then head -n 1 {pool}/states; sed -i 1d {pool}/states; else echo 'shut off'; fi
    exit
fi
for last; do :; done
cat "$last" > {pool}/defined
"""

COMMANDS = ("mv", "mkdir", "sync", "chmod")


@dataclass
class Site:
    """A pool and a directory of kernels with one guest and a root that is to be its next."""

    guest: Guest
    paths: Place
    pool: Path
    boot: Path

    @property
    def final(self) -> str:
        return f"{self.paths.previous_roots}/20261124T000000Z"

    def switch(self) -> None:
        definition = parsed(DOMAIN)
        swap.describe(self.guest.target, f"{self.paths.prepared}/next", root_source.read(definition), self.guest.boot)
        root_source.write(definition, self.guest.boot, NEW)
        swap.swap_roots(self.guest, self.paths, self.paths.prepared, self.final, definition, NEW)

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
    for made_there, what in ((paths.root, "old"), (f"{paths.prepared}/root", "new"), (paths.boot, "old"),
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
    guest = make_guest(hypervisor, root=paths.root, boot=paths.boot, source=OLD)
    return Site(guest, paths, pool, boot)


def token_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".virtroot-")]


def test_root_boot_directory_and_domain_change_together_and_the_former_is_kept(site: Site) -> None:
    site.switch()
    assert site.which() == ("new", "new", "new")
    final = Path(site.final)
    assert (final / "root/is").read_text() == "old"
    assert swap.read_description(Local(), f"{final}/about") == OLD
    assert (final / "about/manifest.json").read_text() == "{}"
    assert {path.name for path in final.iterdir()} == {"root", "about"}
    assert sorted(path.name for path in site.pool.iterdir()) == ["defined", "former.web", "root.web"]
    assert [path.name for path in site.boot.iterdir()] == ["virtroot.web"]
    assert not token_in(site.pool / "root.web") + token_in(site.boot / "virtroot.web") + token_in(final / "root")
    defined = parsed((site.pool / "defined").read_text())
    assert root_source.read(defined) == NEW
    assert defined.find("os/initrd") is None


def test_what_libvirt_does_not_take_changes_nothing(site: Site) -> None:
    virsh = site.pool.parent / "programs/virsh"
    virsh.write_text(virsh.read_text().replace("for last;", "echo unsupported >&2; exit 1; for last;"))
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        site.switch()
    assert "unsupported" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.swap_journal).exists()


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
    assert "the guest is running" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.swap_journal).exists()
    assert (Path(site.paths.prepared) / "root/is").read_text() == "new"


def test_what_was_written_down_and_not_begun_is_never_done_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(swap, "_finish", lambda *_, **__: None)
    site.switch()
    monkeypatch.undo()
    monkeypatch.setattr(place, "BOOT", str(site.boot))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    assert Path(site.paths.swap_journal).exists()
    swap.finish(site.guest)
    assert site.which() == ("old", "old", "old")
    assert not Path(site.paths.swap_journal).exists()


@pytest.mark.parametrize("running", [False, True])
def test_what_libvirt_does_not_take_any_more_is_undone_and_nothing_of_it_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: bool
) -> None:
    """The machine went down after the exchange, libvirt is another one since, and the guest may have run on it."""
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    with monkeypatch.context() as patched:
        patched.setattr(swap, "_finish", lambda *_, **__: None)
        site.switch()
    programs.exchange(Local(), f"{site.paths.prepared}/root", site.paths.root)
    virsh = tmp_path / "programs/virsh"
    virsh.write_text(virsh.read_text().replace("for last;", "echo unsupported >&2; exit 1; for last;"))
    if running:
        (site.pool / "states").write_text("running\n")
        with pytest.raises(VirtrootError, match="web keeps the root that it has"):
            swap.finish(site.guest)
        assert (Path(site.paths.root) / "is").read_text() == "new"
        assert Path(site.paths.swap_journal).exists()
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        swap.finish(site.guest)
    assert f"is kept as {site.final}" in raised.value.detail
    assert site.which() == ("old", "old", "old")
    assert (Path(site.final) / "root/is").read_text() == "new"
    swap.finish(site.guest)


def test_what_is_begun_is_finished_also_without_one_step_for_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the three renames that stand for one where a file system cannot exchange directories."""
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    root, staged = Path(site.paths.root), Path(site.paths.prepared) / "root"
    aside = root.with_name(f"{root.name}@aside")
    with monkeypatch.context() as patched:
        patched.setattr(swap, "_finish", lambda *_, **__: None)
        site.switch()
    journal = Path(site.paths.swap_journal).read_bytes()
    root.rename(aside)
    swap.finish(site.guest)
    assert site.which() == ("old", "old", "old")
    assert not token_in(staged)
    Path(site.paths.swap_journal).write_bytes(journal)
    token = json.loads(journal)["token"]
    for directory in (staged, Path(site.paths.partial_boot)):
        (directory / token).touch()
    root.rename(aside)
    staged.rename(root)
    swap.finish(site.guest)
    assert site.which() == ("new", "new", "new")
    assert (Path(site.final) / "root/is").read_text() == "old"


def test_killed_anywhere_it_has_one_root_and_the_next_task_does_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killing = Killing(tmp_path, monkeypatch, site.guest.hypervisor, COMMANDS)
    seen = set()
    for where in killing.times((site.pool, site.boot), site.switch):
        assert site.which()[0] in ("old", "new"), where
        with patch.object(guests, "get", return_value=site.guest):
            swap.finish(site.guest)
        left = site.which()
        assert left in (("old", "old", "old"), ("new", "new", "new")), (where, left)
        seen.add(left[0])
        assert not Path(site.paths.swap_journal).exists()
        other = Path(site.final if left[0] == "new" else site.paths.prepared) / "root/is"
        assert other.read_text() == ("old" if left[0] == "new" else "new"), where
        assert not token_in(site.pool / "root.web"), where
    assert seen == {"old", "new"}


def test_what_libvirt_refuses_after_a_crash_is_kept_wherever_a_second_crash_is(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The machine went down after the exchange, libvirt does not accept the definition any more."""
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    begun(site, monkeypatch)
    programs.exchange(Local(), f"{site.paths.prepared}/root", site.paths.root)
    virsh = tmp_path / "programs/virsh"
    virsh.write_text(virsh.read_text().replace("for last;", "echo unsupported >&2; exit 1; for last;"))
    killing = Killing(tmp_path, monkeypatch, site.guest.hypervisor, ())
    for where in killing.times((site.pool, site.boot), lambda: swap.finish(site.guest)):
        with suppress(VirtrootError):
            swap.finish(site.guest)
        assert site.which() == ("old", "old", "old"), where
        assert (Path(site.final) / "root/is").read_text() == "new", where
        assert not Path(site.paths.swap_journal).exists(), where


def test_a_journal_of_an_earlier_version_is_understood_after_a_second_crash(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    begun(site, monkeypatch)
    journal = Path(site.paths.swap_journal)
    words = json.loads(journal.read_text())
    for directory in (Path(site.paths.prepared) / "root", Path(site.paths.partial_boot)):
        (directory / words["token"]).unlink()
    text = "".join(f"{word} {value}\n" for word, value in words.items())
    journal.write_text(f'{text}end\n{{"done": true}}\n')
    swap.finish(site.guest)
    assert not journal.exists()
    assert site.which() == ("old", "old", "old")


def begun(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a switch as a machine that went down before the exchange does."""
    with monkeypatch.context() as patched:
        patched.setattr(swap, "_finish", lambda *_, **__: None)
        site.switch()


def test_which_root_is_which_is_known_whatever_number_the_device_has_by_then(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A btrfs pool that was mounted again has other numbers, and the old ones are other roots'."""
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    begun(site, monkeypatch)
    for path in (site.paths.root, f"{site.paths.prepared}/root", site.paths.boot, site.paths.partial_boot):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy, symlinks=True)
        shutil.rmtree(path)
        copy.rename(path)
    swap.finish(site.guest)
    assert site.which() == ("old", "old", "old")
    assert (Path(site.paths.prepared) / "root/is").read_text() == "new"
    assert not Path(site.paths.swap_journal).exists()


@pytest.mark.parametrize("restored", ["neither", "both"])
def test_where_nobody_can_say_which_root_is_which_nothing_changes(
    site: Site, monkeypatch: pytest.MonkeyPatch, restored: str
) -> None:
    """Somebody put a backup in the place of one of the two."""
    begun(site, monkeypatch)
    staged, root = Path(site.paths.prepared) / "root", Path(site.paths.root)
    (token,) = token_in(staged)
    if restored == "neither":
        (staged / token).unlink()
    else:
        (root / token).touch()
    with pytest.raises(VirtrootError, match="web keeps the root that it has") as raised:
        swap.finish(site.guest)
    assert "is certainly the root that was prepared" in raised.value.detail
    assert (root / "is").read_text() == "old"
    assert (staged / "is").read_text() == "new"
    assert Path(site.paths.swap_journal).exists()


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_journal_of_an_earlier_version_is_understood(
    site: Site, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    begun(site, monkeypatch)
    staged, boot = Path(site.paths.prepared) / "root", Path(site.paths.partial_boot)
    (token,) = token_in(staged)
    numbers = {}
    for word, directory in (("is_root", staged), ("is_boot", boot)):
        (directory / token).unlink()
        numbers[word] = f"{directory.stat().st_dev} {directory.stat().st_ino}"
    journal = Path(site.paths.swap_journal)
    words = {**json.loads(journal.read_text()), **numbers}
    del words["token"]
    journal.write_text("".join(f"{word} {value}\n" for word, value in words.items()) + "end\n")
    (Path(site.paths.prepared) / "coming").unlink()
    if exchanged:
        programs.exchange(Local(), str(staged), site.paths.root)
    swap.finish(site.guest)
    assert site.which() == (("new", "new", "new") if exchanged else ("old", "old", "old"))
    assert not journal.exists()


def test_what_was_changed_in_the_domain_since_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine went down after the exchange; an administrator gave the guest a device before anybody came to it."""
    monkeypatch.setattr(guests, "get", lambda *_: site.guest)
    begun(site, monkeypatch)
    programs.exchange(Local(), f"{site.paths.prepared}/root", site.paths.root)
    defined = site.pool / "defined"
    defined.write_text(DOMAIN.replace("<devices/>", "<devices><filesystem><target dir='data'/></filesystem></devices>"))
    swap.finish(site.guest)
    definition = parsed(defined.read_text())
    assert root_source.read(definition) == NEW
    assert definition.find("devices/filesystem/target") is not None
