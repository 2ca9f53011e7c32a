"""The hypervisor: the host's libvirt where it answers, else the embedded one, and what is asked of either by virsh."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import engine as engines
from pipelines.host import images, process
from pipelines.host.process import Completed
from pipelines.host.target import InContainer, Local, Target
from pipelines.libvirt.beside import PROGRAM
from pipelines.log import step
from pipelines.settings import Settings

#: The distribution the embedded hypervisor is made of; see its Containerfile.
_BASE_IMAGE, _BASE_SUITE = "debian:trixie-slim", "trixie"

_URI = "qemu:///system"

#: Seconds that libvirt in a new container may take to answer.
_START_TIMEOUT = 30


@dataclass
class Hypervisor:
    """A libvirt that answers, and the target it runs on."""

    target: Target
    uri: str
    embedded: bool = False

    def virsh(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        """Run virsh."""
        return self.target.run(["virsh", "--quiet", "--connect", self.uri, *arguments], stdin=stdin, check=check)

    def console(self, name: str) -> int:
        """Join the user's terminal to the guest's serial console."""
        return self.target.attach(["virsh", "--connect", self.uri, "console", "--force", name])

    def domains(self) -> list[str]:
        """Return the names of all domains, ours or not."""
        return [name for name in self.virsh("list", "--all", "--name").text.splitlines() if name]

    def state(self, name: str, *, reason: bool = False) -> str:
        """Return libvirt's word for a domain's state (``running``, ``shut off``, …); ``reason`` adds the reason."""
        return self.virsh("domstate", name, *(["--reason"] if reason else [])).text.strip()

    def xml(self, name: str) -> ET.Element:
        """Return the definition of a domain, as it will be at its next start."""
        return ET.fromstring(self.virsh("dumpxml", "--inactive", name).text)  # noqa: S314 - libvirt's own

    @cached_property
    def kvm(self) -> bool:
        """Whether KVM really works on the target."""
        return kvm_works(self.target)

    def network(self, wanted: str) -> str:
        """Resolve ``auto`` to ``default`` where that network is active, else to ``user``; check any other name."""
        if wanted in {"user", "none"}:
            return wanted
        active = self.virsh("net-list", "--name").text.split()
        if wanted == "auto":
            return "default" if "default" in active else "user"
        if wanted not in active:
            raise VirtrootError(
                f"libvirt has no active network {wanted}",
                f"use auto, user, none{''.join(f', {name}' for name in active)}",
            )
        return wanted


def kvm_works(target: Target) -> bool:
    """Try KVM on ``target``: a machine can have /dev/kvm and still refuse every guest."""
    probe = (
        "qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-display", "none", "-nodefaults",
        "-monitor", "stdio",
    )  # fmt: skip
    try:
        return target.run(probe, stdin=b"quit\n", check=False).returncode == 0
    except VirtrootError:
        return False


def connect(settings: Settings) -> Hypervisor:
    """Reach the hypervisor that ``settings.connect`` asks for, starting the embedded one on demand."""
    if settings.connect == "embedded":
        return _embedded(settings)
    if settings.connect == _URI:
        if not host_answers():
            raise VirtrootError(f"libvirt does not answer at {_URI}", "start libvirtd, or use --connect embedded")
        return Hypervisor(Local(), _URI)
    if settings.connect == "auto":
        return Hypervisor(Local(), _URI) if host_answers() else _embedded(settings)
    raise VirtrootError(
        f"cannot install to {settings.connect}: the root and libvirt have to be on this machine",
        f"use --connect auto, embedded or {_URI}",
    )


def host_answers() -> bool:
    """Say whether this machine's own libvirt answers."""
    if not process.found("virsh"):
        return False
    return process.run(["virsh", "--quiet", "--connect", _URI, "uri"], check=False, timeout=30).returncode == 0


def image(engine: engines.Engine, settings: Settings, made_since: datetime | None = None) -> str:
    """Return the tag of the embedded hypervisor's image, made when missing or older than ``made_since`` or settings."""
    since = made_since or images.since(settings.image_max_age)
    base = images.base(engine, settings.base, _BASE_IMAGE, _BASE_SUITE, made_since=since)
    return images.built(engine, "hypervisor", base, {"hypervisor/handover.py": PROGRAM.read_bytes()}, made_since=since)[
        0
    ]


def _embedded(settings: Settings) -> Hypervisor:
    engine = engines.connect()
    container = engine.container(settings.embedded)
    if container is None:
        tag = image(engine, settings)
        with step("starting the embedded hypervisor"):
            container = _start_embedded(engine, tag, settings.embedded)
    hypervisor = Hypervisor(InContainer(container), _URI, embedded=True)
    deadline = time.monotonic() + _START_TIMEOUT
    while (answer := hypervisor.virsh("uri", check=False)).returncode:
        if time.monotonic() > deadline:
            raise VirtrootError(
                "libvirt in the embedded hypervisor does not answer", "see the container's log", answer.complaint
            )
        time.sleep(0.2)
    return hypervisor


def _start_embedded(engine: engines.Engine, tag: str, name: str) -> engines.Container:
    """Start the container; with /dev/kvm only where that works: libvirt takes long to find out otherwise."""

    def start(devices: tuple[str, ...]) -> engines.Container:
        engine.remove_container(name)
        return engine.start(
            tag,
            name=name,
            labels={"virtroot.purpose": "hypervisor"},
            # Roots and definitions outlive the container and its image.
            volumes={
                f"{name}-state": "/var/lib/libvirt",
                f"{name}-domains": "/etc/libvirt/qemu",
                f"{name}-pools": "/etc/libvirt/storage",
            },
            # virtiofsd makes namespaces and mounts, libvirt sets up networks. Under Docker's seccomp profile guests
            # take several times longer to come up.
            capabilities=("SYS_ADMIN", "NET_ADMIN"),
            seccomp=False,
            devices=devices,
            hostname="hypervisor",
        )

    if Path("/dev/kvm").exists():
        with_kvm = start(("/dev/kvm",))
        if kvm_works(InContainer(with_kvm)):
            return with_kvm
    return start(())


def stop_embedded(settings: Settings, *, with_volumes: bool) -> None:
    """Remove the embedded hypervisor's container and, when told so, every guest in it."""
    engine = engines.connect()
    engine.remove_container(settings.embedded)
    if with_volumes:
        for part in ("state", "domains", "pools"):
            engine.remove_volume(f"{settings.embedded}-{part}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}")


def checked_name(name: str) -> str:
    """Return ``name`` if libvirt and the file system take it as it is; raises `VirtrootError`.

    virt-aa-helper refuses /[]{}?^,"* in a domain's name; a name is also part of a path and of libvirt's socket names.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise VirtrootError(
            f"{name!r} is no name for a guest",
            "begin with a letter or digit; then letters, digits, and . _ + -, 63 in all",
        )
    return name
