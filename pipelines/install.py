"""Install: an artifact becomes a guest."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from pipelines.artifact import archive, manifest
from pipelines.artifact.manifest import Manifest
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import identity
from pipelines.guest.domain import Domain, domain_xml
from pipelines.guest.identity import Identity
from pipelines.host import process
from pipelines.libvirt import beside, pool
from pipelines.libvirt import hypervisor as hypervisors
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.pool import Pool
from pipelines.log import say, step
from pipelines.recipe.recipe import Guest
from pipelines.settings import Settings

# One process on libvirt's machine publishes everything or takes it back: a task killed meanwhile changes nothing.
_PUBLISH = """
partial_root=$1 root=$2 partial_boot=$3 boot=$4 journal=$5 uri=$6
mv -T -- "$partial_root" "$root"
mv -T -- "$partial_boot" "$boot"
if virsh --quiet --connect "$uri" define --validate /dev/stdin >&2; then rm -f -- "$journal"; exit 0; fi
mv -T -- "$root" "$partial_root"
mv -T -- "$boot" "$partial_boot"
exit 1
"""


@dataclass(frozen=True)
class Wishes:
    """What the user asks of one guest; zero and empty mean the recipe's value, or none."""

    memory: int = 0
    vcpus: int = 0
    hostname: str = ""
    ssh_key: str = ""


def wishes(memory: str, vcpus: int, hostname: str, ssh_key: str) -> Wishes:
    """Validate what was given on the command line by the recipe's own rules; raises `VirtrootError`."""
    given = {key: value for key, value in (("memory", memory), ("vcpus", vcpus)) if value}
    try:
        asked = Guest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise VirtrootError(
            f"--{first['loc'][0]}: {message}", "sizes are written like 2GiB; CPUs are a whole number"
        ) from error
    return Wishes(asked.memory if memory else 0, asked.vcpus if vcpus else 0, hostname, ssh_key)


@dataclass(frozen=True)
class Order:
    """An install that can begin: everything was checked, nothing was changed."""

    artifact: Path
    manifest: Manifest
    hypervisor: Hypervisor
    pool: Pool
    identity: Identity
    domain: Domain

    @property
    def partial_boot(self) -> str:
        """The boot directory before it gets its name."""
        return f"{guests.BOOT}/.virtroot.{self.domain.name}.partial"


def install(name: str, artifact: Path, wishes: Wishes, settings: Settings) -> Domain:
    """Install the artifact in the directory ``artifact`` as the guest ``name``, defined and shut off."""
    name = hypervisors.checked_name(name)
    with Store(settings.output_dir).lock("guest", name):
        order = prepare(name, artifact, wishes, settings)
        with step("checking the artifact"):
            tarball = archive.check(artifact, order.manifest)
        _clear_killed(order)
        _refuse_taken(order)
        try:
            with step("unpacking the root"):
                _unpack(order, tarball)
            with step("identity, kernel"):
                _personalise(order)
            with step("defining the domain"):
                _publish(order)
        except BaseException:
            # The reason why it failed is what the user has to see; the next install clears what stays now.
            with contextlib.suppress(VirtrootError):
                _clear_killed(order)
            raise
        if beside.install_hook(order.hypervisor.target) and not order.hypervisor.embedded:
            say("libvirt's hook is new; until its daemon restarts, only ./inv start hands over a changed kernel")
    return order.domain


def print_xml(name: str, artifact: Path, wishes: Wishes, settings: Settings) -> str:
    """Return the domain's XML as `install` would define it, and change nothing."""
    return domain_xml(prepare(hypervisors.checked_name(name), artifact, wishes, settings, define_pool=False).domain)


def prepare(name: str, artifact: Path, wishes: Wishes, settings: Settings, *, define_pool: bool = True) -> Order:
    """Check everything that can be wrong with the wishes, and resolve what depends on the hypervisor."""
    hostname = identity.checked_hostname(wishes.hostname or name.replace(".", "-").replace("_", "-"))
    keys = identity.read_ssh_key(wishes.ssh_key) if wishes.ssh_key else ""
    built = manifest.load(artifact / "manifest.json")
    hypervisor = hypervisors.connect(settings)
    if not hypervisor.embedded:
        _check_host()
    wanted = built.recipe.guest
    network = hypervisor.network(wanted.network)
    place = pool.find(hypervisor, settings.pool, settings.pool_path, define=define_pool)
    uuid = uuid4()
    domain = Domain(
        name=name,
        uuid=uuid,
        artifact=built.id,
        root=place.root(name),
        boot=guests.boot_directory(name),
        kernel=built.boot.kernel,
        initrd=built.boot.initrd,
        cmdline=built.boot.cmdline,
        memory=wishes.memory or wanted.memory,
        vcpus=wishes.vcpus or wanted.vcpus,
        network=network,
        cache=wanted.cache,
        kvm=hypervisor.kvm,
    )
    return Order(artifact, built, hypervisor, place, Identity(hostname, uuid, keys), domain)


def _check_host() -> None:
    if os.geteuid() != 0:
        raise VirtrootError("a root's files belong to many users, so unpacking it needs root", "run this with sudo")
    for program in ("tar", "zstd"):
        if not process.found(program):
            raise VirtrootError(f"{program} is not installed", f"install the package {program}")


def _clear_killed(order: Order) -> None:
    """Remove what an install that was killed left; its journal says that the root and boot directory were its own."""
    name, place = order.domain.name, order.pool
    if place.exists(place.journal(name)) and name not in order.hypervisor.domains():
        place.delete(place.root(name), order.domain.boot)
    place.delete(place.partial(name), order.partial_boot, place.journal(name))


def _refuse_taken(order: Order) -> None:
    name = order.domain.name
    if name in order.hypervisor.domains():
        state = order.hypervisor.state(name)
        raise VirtrootError(
            f"there is a guest {name} already ({state})",
            f"remove it first: ./inv remove --name {name}; or choose another name",
        )
    if order.pool.exists(order.domain.root):
        raise VirtrootError(
            f"{order.domain.root} exists already, and no guest {name} goes with it",
            "move it away or choose another name",
        )


def _unpack(order: Order, tarball: Path) -> None:
    partial, target = order.pool.partial(order.domain.name), order.hypervisor.target
    target.run(["sh", "-ec", ': > "$1"; mkdir -m 0755 "$2"', "begin", order.pool.journal(order.domain.name), partial])
    with tarball.open("rb") as content:
        target.run(archive.unpack_argv(partial), stdin=content)


def _personalise(order: Order) -> None:
    partial, target = order.pool.partial(order.domain.name), order.hypervisor.target
    identity.write(target, partial, order.identity)
    beside.hand_over(target, partial, order.partial_boot, order.domain.kernel, order.domain.initrd)
    content = (order.artifact / "manifest.json").read_bytes()
    target.run(["sh", "-ec", 'cat > "$1"', "manifest", f"{order.partial_boot}/manifest.json"], stdin=content)


def _publish(order: Order) -> None:
    name, place = order.domain.name, order.pool
    paths = (place.partial(name), order.domain.root, order.partial_boot, order.domain.boot, place.journal(name))
    publish = ["sh", "-ec", _PUBLISH, "publish", *paths, order.hypervisor.uri]
    done = order.hypervisor.target.run(publish, stdin=domain_xml(order.domain).encode(), check=False)
    if done.returncode:
        raise VirtrootError(f"libvirt did not take the guest {name}", "read libvirt's reason above", done.complaint)
