"""The pool: libvirt's dir pool, and one directory in it for each guest's root."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import warn


@dataclass(frozen=True)
class Pool:
    """A started pool of type dir, and its directory on libvirt's machine."""

    hypervisor: Hypervisor
    path: str

    def root(self, name: str) -> str:
        """Return where the root of the guest ``name`` is, or will be."""
        return f"{self.path}/root.{name}"

    def partial(self, name: str) -> str:
        """Return where a root is unpacked before it gets its name."""
        return f"{self.path}/.root.{name}.partial"

    def journal(self, name: str) -> str:
        """Return the file that exists while an install of ``name`` is under way."""
        return f"{self.path}/.root.{name}.installing"

    def exists(self, path: str) -> bool:
        """Say whether ``path`` exists on libvirt's machine, as anything."""
        return (
            self.hypervisor.target.run(
                ["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], check=False
            ).returncode
            == 0
        )

    def delete(self, *paths: str) -> None:
        """Delete trees below the pool; links in them are deleted, not followed, and other file systems stay."""
        self.hypervisor.target.run(["rm", "-rf", "--one-file-system", "--", *paths])


def find(hypervisor: Hypervisor, name: str, path: str, *, define: bool = True) -> Pool:
    """Return the pool ``name``, started where it was not; where it is missing, ``define`` makes it at ``path``."""
    answer = hypervisor.virsh("pool-dumpxml", name, check=False)
    if answer.returncode:
        if define:
            _define(hypervisor, name, path)
        return Pool(hypervisor, path)
    pool = ET.fromstring(answer.text)  # noqa: S314 - libvirt's own
    found = pool.findtext("target/path") or ""
    if pool.get("type") != "dir":
        raise VirtrootError(f"the pool {name} is of type {pool.get('type')}", "name a pool of type dir with --pool")
    if hypervisor.virsh("pool-info", name).text.find("running") < 0:
        hypervisor.virsh("pool-start", name)
    mode = hypervisor.target.run(["stat", "--format=%a", found]).text
    if int(mode, 8) & 0o077:
        # Not ours to change: guests of the user's own may boot kernels from inside it.
        warn(
            f"other users can enter {found}, and run what guests leave there; chmod 0700 it unless guests boot from it"
        )
    return Pool(hypervisor, found)


def _define(hypervisor: Hypervisor, name: str, path: str) -> None:
    if not path.startswith("/"):
        raise VirtrootError(f"the pool path {path} is not absolute", "give --pool-path an absolute directory")
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    target = ET.SubElement(pool, "target")
    ET.SubElement(target, "path").text = path
    permissions = ET.SubElement(target, "permissions")
    # A setuid program that a guest plants in its root must be out of reach of the host's users.
    for key, value in (("mode", "0700"), ("owner", "0"), ("group", "0")):
        ET.SubElement(permissions, key).text = value
    hypervisor.virsh("pool-define", "/dev/stdin", stdin=ET.tostring(pool))
    try:
        hypervisor.virsh("pool-build", name)
        hypervisor.virsh("pool-start", name)
        hypervisor.virsh("pool-autostart", name)
    except VirtrootError:
        hypervisor.virsh("pool-undefine", name, check=False)
        raise
