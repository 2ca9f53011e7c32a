"""Which libvirt: the host's where it answers, else the embedded one."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.libvirt import embedded
from pipelines.libvirt.hypervisor import URI, Hypervisor
from pipelines.settings import Settings
from pipelines.target.target import Local


def connect(settings: Settings) -> Hypervisor:
    """Reach the hypervisor that ``settings.connect`` asks for, starting the embedded one on demand."""
    return Hypervisor(Local()) if _on_host(settings) else embedded.start(settings)


def find(settings: Settings) -> Hypervisor | None:
    """Return the hypervisor that `connect` would, or None where that is an embedded one that does not run."""
    return Hypervisor(Local()) if _on_host(settings) else embedded.find(settings)


def host_answers() -> bool:
    """Say whether this machine's own libvirt answers."""
    if not process.is_installed("virsh"):
        return False
    return process.run(["virsh", "--quiet", "--connect", URI, "uri"], check=False, timeout=30).returncode == 0


def _on_host(settings: Settings) -> bool:
    if settings.connect == URI and not host_answers():
        raise VirtrootError(f"libvirt does not answer at {URI}", "start libvirtd, or use --connect embedded")
    if settings.connect not in {URI, "auto", "embedded"}:
        raise VirtrootError(
            f"cannot install to {settings.connect}: the root and libvirt have to be on this machine",
            f"use --connect auto, embedded or {URI}",
        )
    return settings.connect == URI or (settings.connect == "auto" and host_answers())
