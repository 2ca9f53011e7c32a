"""What this machine has of what virtroot needs, wherever guests run."""

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
    """Look at everything and change nothing; no guest, container or pool is made."""
    return [
        _engine(settings),
        _registry(settings),
        _images(settings),
        _mirror_tool(),
        _libvirt(settings),
        _kvm(),
        _output(settings.output_dir),
    ]


def _engine(settings: Settings) -> Finding:
    try:
        memory = engines.connect().memory()
    except VirtrootError as error:
        if _uses_own_libvirt(settings):
            says = f"{error.what}; only builds and imports need one here, guests run on the host's libvirt"
            return fault(OF, "Docker engine", says, f"to build here: {error.hint}", needed=False)
        return fault(OF, "Docker engine", error.what, error.hint)
    return fine(OF, "Docker engine", f"answers, {memory >> 20} MiB of memory to build in")


def _uses_own_libvirt(settings: Settings) -> bool:
    """Return whether guests run on this machine's own libvirt, for which no engine is needed."""
    return settings.connect != "embedded" and connecting.host_answers()


def _registry(settings: Settings) -> Finding:
    if not engines.is_available():
        return _unknown("image registry")
    if engines.connect().registry_has("debian:trixie-slim"):
        return fine(OF, "image registry", "answers")
    do = {
        "registry": "set base to auto or mirror, or let the engine reach a registry",
        "mirror": "nothing: base is mirror",
        "auto": "nothing, while mmdebstrap is here: base images are then made from the mirror",
    }
    return fault(OF, "image registry", "does not answer", do[settings.base], needed=settings.base == "registry")


def _unknown(name: str) -> Finding:
    return fault(OF, name, "cannot tell without an engine", "see the Docker engine", needed=False)


def _images(settings: Settings) -> Finding:
    if not engines.is_available():
        return _unknown("images")
    since = images.compute_oldest(settings.image_max_age)
    now = datetime.now(UTC)
    old = [
        f"{tag} is {(now - image.made).days} days old"
        for tag, image in engines.connect().images("virtroot/*").items()
        if image.made < since
    ]
    if old:
        # Not a fix: it takes minutes, and a hypervisor with guests in it stays as it is.
        do = "./inv setup --refresh makes those in use anew"
        return fault(OF, "images", ", ".join(old), do, needed=False)
    limit = f"{settings.image_max_age} days" if settings.image_max_age else "which is 0: any age is fine"
    return fine(OF, "images", f"none is older than image_max_age, {limit}")


def _mirror_tool() -> Finding:
    if process.is_installed("mmdebstrap"):
        return fine(OF, "mmdebstrap", "here")
    do = "needed only where no image registry answers; ./inv setup installs it then"
    return fault(OF, "mmdebstrap", "missing", do, needed=False)


def _libvirt(settings: Settings) -> Finding:
    if settings.connect == "embedded":
        return fine(OF, "libvirt", "this machine's is not asked: connect is embedded")
    if connecting.host_answers():
        return fine(OF, "libvirt", "the host's answers")
    needed = settings.connect.startswith("qemu")
    do = "start libvirtd, or use connect: auto" if needed else "nothing: connect: auto uses the embedded hypervisor"
    return fault(OF, "libvirt", "the host's does not answer", do, needed=needed)


def _kvm() -> Finding:
    do = "see whether the BIOS, or the hypervisor around this machine, gives it virtualization"
    slow = "guests run under software emulation, many times slower"
    if not Path("/dev/kvm").exists():
        return fault(OF, "KVM", f"no /dev/kvm; {slow}", do, needed=False)
    if not process.is_installed("qemu-system-x86_64"):
        return fine(OF, "KVM", "/dev/kvm is there; whether it works is tried when a guest is installed")
    if kvm.works(Local()):
        return fine(OF, "KVM", "works")
    return fault(OF, "KVM", f"/dev/kvm is there but refuses guests; {slow}", do, needed=False)


def _output(directory: Path) -> Finding:
    """Look at where builds go, or where that is going to be made."""
    there = next(each for each in (directory, *directory.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fault(
            OF, "output", f"{there} cannot be written to", "run this as its owner, or set output to another directory"
        )
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    says = f"{directory}, {size(free)} free"
    if finding.scarce(free, found.f_blocks * found.f_frsize) or finding.scarce(found.f_favail, found.f_files, 10_000):
        return fault(OF, "output", says, "./inv prune, or give it a larger disk", needed=False)
    return fine(OF, "output", says)
