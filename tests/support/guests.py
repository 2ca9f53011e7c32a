"""Guests without a domain."""

from __future__ import annotations

from typing import Any

from pipelines.artifact.build_id import BuildId
from pipelines.guest.guest import Guest
from pipelines.guest.root_source import RootSource
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import place


def make_source(
    artifact: str = "", kernel: str = "vmlinuz", initrd: str = "", cmdline: str = "root=root"
) -> RootSource:
    return RootSource(BuildId(artifact), kernel, initrd, cmdline)


def make_guest(hypervisor: Hypervisor, name: str = "web", artifact: str = "", **values: Any) -> Guest:
    """Return a guest; ``values`` are fields of `Guest`."""
    found = {"source": make_source(artifact), "boot": place.boot(name), "console_log": place.console_log(name)}
    return Guest(hypervisor, name, **{"uuid": f"uuid-{name}", "root": f"/pool/root.{name}", **found, **values})
