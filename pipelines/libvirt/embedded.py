"""The embedded hypervisor: a container with libvirt, QEMU and virtiofsd, for machines that have no libvirt."""

from __future__ import annotations

import time
from datetime import datetime

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.container import Container, NameTaken, NoSuchDevice
from pipelines.engine.engine import Engine
from pipelines.errors import VirtrootError
from pipelines.libvirt import host_files, kvm, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import step
from pipelines.settings import Settings
from pipelines.target.target import InContainer

#: The name of its Containerfile, and of its image.
NAME = "hypervisor"

#: The base image of its Containerfile, and the Debian suite.
_BASE_IMAGE, _BASE_SUITE = "debian:trixie-slim", "trixie"

#: Seconds that libvirt in a new container may take to answer.
_START_TIMEOUT = 30

#: Seconds that guests may take to shut down with the container; the program in the container waits a little less.
STOP_TIMEOUT = 90

_KVM = "/dev/kvm"

#: The labels of its container. A container of the same name without them is not virtroot's: it is not used or removed.
_LABELS = {"virtroot.purpose": "hypervisor"}

# Prints the locks that tasks hold.
_LIST_HELD_LOCKS = (
    'for lock in /run/virtroot/*.lock; do [ ! -e "$lock" ] || flock --nonblock "$lock" true || echo "$lock"; done'
)


def ensure_image(engine: Engine, settings: Settings, made_since: datetime | None = None) -> str:
    """Return the tag of its image; build it if it is missing, older than ``made_since`` or older than configured."""
    since = made_since or images.compute_oldest(settings.image_max_age)
    base = images.ensure_base(engine, settings.base, _BASE_IMAGE, _BASE_SUITE, made_since=since)
    names = "".join(f"{name}\n" for name in wrappers.NAMES)
    files = {
        f"{NAME}/hook": host_files.hook(),
        f"{NAME}/virtiofsd": host_files.wrapper(),
        f"{NAME}/wrappers": names.encode(),
    }
    return images.ensure_built(engine, NAME, base, files, made_since=since)[0]


def start(settings: Settings) -> Hypervisor:
    """Return the embedded hypervisor, and start it if it is not running; its guests are in volumes that outlive it."""
    engine = engines.connect()
    engine.refuse_foreign(settings.embedded, _LABELS)
    container = _find_running(engine, settings.embedded)
    if container is None:
        tag = ensure_image(engine, settings)
        with step("starting the embedded hypervisor"):
            container = _start(engine, tag, settings.embedded)
    hypervisor = Hypervisor(InContainer(container), embedded=True)
    deadline = time.monotonic() + _START_TIMEOUT
    while (answer := hypervisor.virsh("uri", check=False)).returncode:
        if time.monotonic() > deadline:
            raise VirtrootError(
                "libvirt in the embedded hypervisor does not answer",
                f"read its log: docker logs {settings.embedded}",
                answer.complaint,
            )
        time.sleep(0.2)
    return hypervisor


def find(settings: Settings) -> Hypervisor | None:
    """Return the embedded hypervisor if it is running, else None; start nothing."""
    if not engines.is_available():
        return None
    engine = engines.connect()
    engine.refuse_foreign(settings.embedded, _LABELS)
    container = engine.container(settings.embedded)
    return Hypervisor(InContainer(container), embedded=True) if container else None


def _find_running(engine: Engine, name: str) -> Container | None:
    """Return the container if it is running, and wait if another task is just starting it; else None."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        state = engine.container_state(name)
        if state == "running":
            return engine.container(name)
        if state in {"", "exited", "dead"}:
            return None
        if state == "paused":
            raise VirtrootError(
                f"the embedded hypervisor {name} is paused, and so are its guests", f"run docker unpause {name}"
            )
        if time.monotonic() > deadline:
            raise VirtrootError(
                f"the container of the embedded hypervisor, {name}, is {state}",
                f"see docker inspect {name}; if no task is starting it, run docker rm {name}",
            )
        time.sleep(0.2)


def _start(engine: Engine, tag: str, name: str) -> Container:
    devices = _find_devices(engine, tag)
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        engine.remove_ended(name, _LABELS)
        try:
            return engine.start(
                tag,
                name=name,
                labels=_LABELS,
                proxied=False,
                # Roots and definitions have to outlive the container and its image.
                volumes={
                    f"{name}-state": "/var/lib/libvirt",
                    f"{name}-domains": "/etc/libvirt/qemu",
                    f"{name}-pools": "/etc/libvirt/storage",
                },
                # virtiofsd makes namespaces and mounts, libvirt sets up networks. Under Docker's seccomp profile guests
                # take several times longer to boot.
                capabilities=("SYS_ADMIN", "NET_ADMIN"),
                routing=True,
                seccomp=False,
                devices=devices,
                hostname="hypervisor",
                stop_timeout=STOP_TIMEOUT,
            )
        except NameTaken:
            # Another task was faster: use the container that it started. The engine reserves the name a moment before
            # it shows the container.
            running = _find_running(engine, name)
            if running is not None:
                return running
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _find_devices(engine: Engine, tag: str) -> tuple[str, ...]:
    """Return /dev/kvm if it works on the engine's machine: libvirt would take long to find out that it does not."""
    labels = {"virtroot.purpose": "kvm-probe"}
    try:
        # The container ends by itself if this task is killed. It has no name, so that other tasks can probe, too.
        probe = engine.start(tag, labels=labels, argv=["sleep", "60"], devices=(_KVM,), transient=True, proxied=False)
    except NoSuchDevice:
        return ()
    try:
        return (_KVM,) if kvm.is_working(InContainer(probe)) else ()
    finally:
        probe.remove()


def stop(settings: Settings, *, with_volumes: bool) -> None:
    """Shut the embedded hypervisor and its guests down and remove its container; ``with_volumes``, also its guests."""
    engine = engines.connect()
    engine.refuse_foreign(settings.embedded, _LABELS)
    container = engine.container(settings.embedded)
    if container and not with_volumes:
        with step("shutting the embedded hypervisor down"):
            container.stop(STOP_TIMEOUT)
    engine.remove_container(settings.embedded, _LABELS)
    if with_volumes:
        for part in ("state", "domains", "pools"):
            engine.remove_volume(f"{settings.embedded}-{part}")


def rebuild(settings: Settings, made_since: datetime) -> bool:
    """Build the image again and stop a hypervisor of the old image, unless guests run in it.

    Returns whether a hypervisor of the old image is still running.
    """
    ensure_image(engines.connect(), settings, made_since)
    hypervisor = find(settings)
    if hypervisor is None:
        return False
    if hypervisor.domains(active=True) or hypervisor.target.run(["sh", "-c", _LIST_HELD_LOCKS]).text:
        return True
    stop(settings, with_volumes=False)
    return False
