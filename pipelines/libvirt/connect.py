"""Choosing a libvirt: the host's if it answers, otherwise the embedded one."""

from __future__ import annotations

from pipelines import lazy
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.libvirt.hypervisor import URI, Hypervisor
from pipelines.settings import Settings
from pipelines.target.target import Local

with lazy.imports():
    # It needs docker, which the host's libvirt does not.
    from pipelines.libvirt import embedded


def connect(settings: Settings) -> Hypervisor:
    """Return the hypervisor that ``settings.connect`` selects; start the embedded one if it is not running."""
    return Hypervisor(Local()) if _uses_host(settings) else embedded.start(settings)


def find(settings: Settings) -> Hypervisor | None:
    """Return the hypervisor that `connect` would, or None if that is an embedded one that is not running."""
    return Hypervisor(Local()) if _uses_host(settings) else embedded.find(settings)


def is_host_answering() -> bool:
    """Return whether the libvirt of this machine answers."""
    if not process.is_installed("virsh"):
        return False
    return process.run(["virsh", "--quiet", "--connect", URI, "uri"], check=False, timeout=30).returncode == 0


def _uses_host(settings: Settings) -> bool:
    if settings.connect == URI and not is_host_answering():
        raise VirtrootError(f"libvirt does not answer at {URI}", "start libvirtd, or use --connect embedded")
    if settings.connect not in {URI, "auto", "embedded"}:
        raise VirtrootError(
            f"cannot install to {settings.connect}: the root and libvirt have to be on this machine",
            f"use --connect auto, embedded or {URI}",
        )
    return settings.connect == URI or (settings.connect == "auto" and is_host_answering())
