"""A pool, a directory of kernels and a libvirt with at most one domain, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt import host_files
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.pool import place
from pipelines.pool.place import Place
from pipelines.target.payload.metadata import NAMESPACE
from pipelines.target.target import Local
from tests.support.definitions import parsed

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
        paths = (
            self.paths.root,
            self.paths.boot,
            f"{self.paths.snapshots}/3/root",
            f"{self.paths.previous_roots}/1/root",
        )
        for each in paths:
            Path(each).mkdir(parents=True)
            (Path(each) / "is").write_text("web")
        (self.machine / "defined").write_text(self.xml)
        return guests.get(self.hypervisor, "web")

    def rename(self, name: str) -> None:
        text = (self.machine / "defined").read_text()
        (self.machine / "defined").write_text(text.replace("<name>web</name>", f"<name>{name}</name>"))


def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Make all of it below ``tmp_path``, for as long as ``monkeypatch`` lasts."""
    machine, pool, boot, programs = (tmp_path / name for name in ("machine", "pool", "boot", "programs"))
    for directory in (machine, pool, boot, programs):
        directory.mkdir()
    monkeypatch.setattr(place, "BOOT", str(boot))
    monkeypatch.setattr(host_files, "HOOK", str(machine / "hooks" / "virtroot"))
    monkeypatch.setattr(place, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(place, "OFF_LOCK", f"{tmp_path}/locks/off-{{}}.lock")
    (programs / "virsh").write_text(VIRSH.format(machine=machine))
    (programs / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local(), embedded=True)
    hypervisor.virsh_argv.side_effect = lambda *arguments: ["virsh", *arguments]
    hypervisor.state.return_value = "shut off"
    hypervisor.list_saved_state.return_value = []

    def domains(**_: object) -> list[ListedDomain]:
        found = machine / "defined"
        return [ListedDomain("1", parsed(found.read_text()).findtext("name") or "")] if found.exists() else []

    hypervisor.domains.side_effect = domains
    hypervisor.is_defined.side_effect = lambda name: name in [known.name for known in domains()]
    hypervisor.definitions.side_effect = lambda found: {
        known.uuid: parsed((machine / "defined").read_text()) for known in found
    }
    hypervisor.xml.side_effect = lambda _: parsed((machine / "defined").read_text()) if domains() else None

    def find_domains_using(path: str, *, besides: str = "", active: bool = False) -> list[ListedDomain]:
        return [known for known in domains() if path in (machine / "defined").read_text() and known.uuid != besides]

    hypervisor.find_domains_using.side_effect = find_domains_using
    return Site(hypervisor, Place(str(pool), "web"), machine, pool, boot)
