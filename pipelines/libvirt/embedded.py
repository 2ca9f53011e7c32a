"""The embedded hypervisor: a container with libvirt, QEMU and virtiofsd, for a machine without a libvirt of its own."""

from __future__ import annotations

import time
from datetime import datetime

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.container import Container, NameTaken, NoSuchDevice
from pipelines.engine.engine import Engine
from pipelines.errors import VirtrootError
from pipelines.libvirt import beside, kvm, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import step
from pipelines.settings import Settings
from pipelines.target.target import InContainer

#: Its Containerfile, and so its image, is called that.
NAME = "hypervisor"

#: The distribution it is made of; see its Containerfile.
_BASE_IMAGE, _BASE_SUITE = "debian:trixie-slim", "trixie"

#: Seconds that libvirt in a new container may take to answer.
_START_TIMEOUT = 30

#: Seconds that the guests in it may take to shut down with it; its own program waits a little less.
STOP_TIMEOUT = 90

_KVM = "/dev/kvm"

#: What its container carries: another one of that name is somebody else's, and is neither used nor removed.
_LABELS = {"virtroot.purpose": "hypervisor"}

# Tasks hold their guest's lock.
_AT_WORK = (
    'for lock in /run/virtroot/*.lock; do [ ! -e "$lock" ] || flock --nonblock "$lock" true || echo "$lock"; done'
)


def image(engine: Engine, settings: Settings, made_since: datetime | None = None) -> str:
    """Return the tag of its image, made when missing or older than ``made_since`` or the settings."""
    since = made_since or images.compute_oldest(settings.image_max_age)
    base = images.ensure_base(engine, settings.base, _BASE_IMAGE, _BASE_SUITE, made_since=since)
    names = "".join(f"{name}\n" for name in wrappers.NAMES)
    files = {
        f"{NAME}/hook": beside.hook(),
        f"{NAME}/virtiofsd": beside.wrapper(),
        f"{NAME}/wrappers": names.encode(),
    }
    return images.ensure_built(engine, NAME, base, files, made_since=since)[0]


def start(settings: Settings) -> Hypervisor:
    """Return the embedded hypervisor, started where it does not run; its guests are in volumes that outlive it."""
    engine = engines.connect()
    engine.refuse_foreign(settings.embedded, _LABELS)
    container = _running(engine, settings.embedded)
    if container is None:
        tag = image(engine, settings)
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
    """Return the embedded hypervisor where it runs; start nothing."""
    if not engines.is_available():
        return None
    engine = engines.connect()
    engine.refuse_foreign(settings.embedded, _LABELS)
    container = engine.container(settings.embedded)
    return Hypervisor(InContainer(container), embedded=True) if container else None


def _running(engine: Engine, name: str) -> Container | None:
    """Return the container where it runs, waiting for one that another task is just starting."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        state = engine.container_state(name)
        if state == "running":
            return engine.container(name)
        if state in {"", "exited", "dead"}:
            return None
        if state == "paused":
            raise VirtrootError(
                f"the embedded hypervisor {name} is paused, and its guests with it", f"docker unpause {name}"
            )
        if time.monotonic() > deadline:
            raise VirtrootError(
                f"the container of the embedded hypervisor, {name}, is {state}",
                f"look at it: docker inspect {name}; when nobody is starting it: docker rm {name}",
            )
        time.sleep(0.2)


def _start(engine: Engine, tag: str, name: str) -> Container:
    devices = _devices(engine, tag)
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        engine.remove_ended(name, _LABELS)
        try:
            return engine.start(
                tag,
                name=name,
                labels=_LABELS,
                proxied=False,
                # Roots and definitions outlive the container and its image.
                volumes={
                    f"{name}-state": "/var/lib/libvirt",
                    f"{name}-domains": "/etc/libvirt/qemu",
                    f"{name}-pools": "/etc/libvirt/storage",
                },
                # virtiofsd makes namespaces and mounts, libvirt sets up networks. Under Docker's seccomp profile guests
                # take several times longer to come up.
                capabilities=("SYS_ADMIN", "NET_ADMIN"),
                routing=True,
                seccomp=False,
                devices=devices,
                hostname="hypervisor",
                stop_timeout=STOP_TIMEOUT,
            )
        except NameTaken:
            # Another task was quicker; what it started serves this one too. The engine gives a name away a moment
            # before it shows whose it is.
            running = _running(engine, name)
            if running is not None:
                return running
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _devices(engine: Engine, tag: str) -> tuple[str, ...]:
    """Return /dev/kvm where it works on the engine's machine: libvirt takes long to find out that it does not."""
    labels = {"virtroot.purpose": "kvm-probe"}
    try:
        # Of a killed task it ends by itself; others may be probing, too.
        probe = engine.start(tag, labels=labels, argv=["sleep", "60"], devices=(_KVM,), transient=True, proxied=False)
    except NoSuchDevice:
        return ()
    try:
        return (_KVM,) if kvm.works(InContainer(probe)) else ()
    finally:
        probe.remove()


def stop(settings: Settings, *, with_volumes: bool) -> None:
    """Shut the embedded hypervisor and its guests down and remove it; when told so, every guest in it too."""
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


def renew(settings: Settings, made_since: datetime) -> bool:
    """Make the image anew; end a running hypervisor of the old one unless guests run in it; say whether one is left."""
    image(engines.connect(), settings, made_since)
    hypervisor = find(settings)
    if hypervisor is None:
        return False
    if hypervisor.domains(active=True) or hypervisor.target.run(["sh", "-c", _AT_WORK]).text:
        return True
    stop(settings, with_volumes=False)
    return False
