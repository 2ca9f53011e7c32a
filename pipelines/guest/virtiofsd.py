"""Whether each directory of a running guest still has a virtiofsd: libvirt starts it, but does not monitor it."""

from __future__ import annotations

from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.target import programs


def find_unserved(hypervisor: Hypervisor, domain: str) -> str:
    """Return which directory of the running domain with the UUID ``domain`` no virtiofsd serves any more, or ""."""
    definition = hypervisor.xml(domain, active=True)
    if definition is None:
        return ""
    sources = (
        filesystem.find("source")
        for filesystem in definition.iterfind("devices/filesystem")
        if filesystem.find("driver[@type='virtiofs']") is not None
    )
    # A virtiofsd that the user starts is given by its socket, without a directory.
    directories = [source.get("dir", "") for source in sources if source is not None and source.get("dir")]
    if not directories:
        return ""
    gone = programs.find_unserved(hypervisor.target, directories)
    # A guest that is just shutting down has no virtiofsd either.
    return f"no virtiofsd serves {gone[0]} any more" if gone and hypervisor.state(domain) == "running" else ""
