"""What virtroot needs on this machine, wherever guests run."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.errors import VirtrootError
from pipelines.health import finding
from pipelines.health.finding import Finding, fault, fine
from pipelines.host import process
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import kvm
from pipelines.settings import Settings
from pipelines.target.target import Local
from pipelines.text import size

OF = "this machine"


def examine(settings: Settings) -> list[Finding]:
    """Check everything and change nothing; no guest, container or pool is created."""
    return [
        _judge_engine(settings),
        _judge_registry(settings),
        _judge_images(settings),
        _judge_mirror_tool(),
        _judge_libvirt(settings),
        _judge_kvm(),
        _judge_output(settings.output_dir),
    ]


def _judge_engine(settings: Settings) -> Finding:
    try:
        memory = engines.connect().memory()
    except VirtrootError as error:
        if _uses_own_libvirt(settings):
            says = f"{error.what}; only builds and imports need one here, guests run on the host's libvirt"
            return fault(OF, "Docker engine", says, f"to build here: {error.hint}", needed=False)
        return fault(OF, "Docker engine", error.what, error.hint)
    return fine(OF, "Docker engine", f"answers, {memory >> 20} MiB of memory to build in")


def _uses_own_libvirt(settings: Settings) -> bool:
    """Return whether guests run on this machine's own libvirt, which needs no engine."""
    return settings.connect != "embedded" and connecting.is_host_answering()


def _judge_registry(settings: Settings) -> Finding:
    if not engines.is_available():
        return _make_unknown("image registry")
    if engines.connect().registry_has("debian:trixie-slim"):
        return fine(OF, "image registry", "answers")
    do = {
        "registry": "set base to auto or mirror, or give the engine access to a registry",
        "mirror": "nothing: base is mirror",
        "auto": "nothing if mmdebstrap is installed: base images are made from the mirror then",
    }
    return fault(OF, "image registry", "does not answer", do[settings.base], needed=settings.base == "registry")


def _make_unknown(name: str) -> Finding:
    return fault(OF, name, "unknown without an engine", "see the finding Docker engine", needed=False)


def _judge_images(settings: Settings) -> Finding:
    if not engines.is_available():
        return _make_unknown("images")
    since = images.compute_oldest(settings.image_max_age)
    now = datetime.now(UTC)
    old = [
        f"{tag} is {(now - image.made).days} days old"
        for tag, image in engines.connect().images("virtroot/*").items()
        if image.made < since
    ]
    if old:
        # No fix is offered: it takes minutes, and a hypervisor with running guests keeps its image.
        do = "run ./inv setup --refresh to build those in use again"
        return fault(OF, "images", ", ".join(old), do, needed=False)
    limit = f"{settings.image_max_age} days" if settings.image_max_age else "which is 0: any age is fine"
    return fine(OF, "images", f"none is older than image_max_age, {limit}")


def _judge_mirror_tool() -> Finding:
    if process.is_installed("mmdebstrap"):
        return fine(OF, "mmdebstrap", "installed")
    do = "nothing: it is needed only if no image registry answers, and ./inv setup installs it then"
    return fault(OF, "mmdebstrap", "missing", do, needed=False)


def _judge_libvirt(settings: Settings) -> Finding:
    if settings.connect == "embedded":
        return fine(OF, "libvirt", "this machine's is not used: connect is embedded")
    if connecting.is_host_answering():
        return fine(OF, "libvirt", "the host's answers")
    needed = settings.connect.startswith("qemu")
    do = "start libvirtd, or use connect: auto" if needed else "nothing: connect: auto uses the embedded hypervisor"
    return fault(OF, "libvirt", "the host's does not answer", do, needed=needed)


def _judge_kvm() -> Finding:
    do = "enable virtualization in the BIOS, or in the hypervisor of this machine"
    slow = "guests run under software emulation, many times slower"
    if not Path("/dev/kvm").exists():
        return fault(OF, "KVM", f"no /dev/kvm; {slow}", do, needed=False)
    if not process.is_installed("qemu-system-x86_64"):
        return fine(OF, "KVM", "/dev/kvm exists; the first install of a guest tries whether it works")
    if kvm.is_working(Local()):
        return fine(OF, "KVM", "works")
    return fault(OF, "KVM", f"/dev/kvm exists but no guest runs with it; {slow}", do, needed=False)


def _judge_output(directory: Path) -> Finding:
    """Check the output directory, or its nearest existing parent."""
    there = next(each for each in (directory, *directory.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fault(
            OF, "output", f"{there} is not writable", "run this as its owner, or set output to another directory"
        )
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    says = f"{directory}, {size(free)} free"
    if finding.is_scarce(free, found.f_blocks * found.f_frsize) or finding.is_scarce(
        found.f_favail, found.f_files, 10_000
    ):
        return fault(OF, "output", says, "run ./inv prune, or use a larger disk", needed=False)
    return fine(OF, "output", says)
