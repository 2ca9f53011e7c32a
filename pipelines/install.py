"""Install: an artifact becomes a guest."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID, uuid4

from pydantic import ValidationError

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import RecordedGuest
from pipelines.builder import inputs
from pipelines.cli.task import ACCEPT, GUEST, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, host_requests, hostdir, identity, publication, virtiofsd_wrapper
from pipelines.guest.domain import Domain, domain_xml
from pipelines.guest.host_requests import Consent
from pipelines.guest.identity import Identity
from pipelines.host import process
from pipelines.libvirt import beside, connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper, takes_acls
from pipelines.log import result, say, step, warn
from pipelines.merge import baselines
from pipelines.pool import clone_methods, mount_units, overlayfs, place, pool, roots
from pipelines.pool import shares as mounting
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.recipe import share_spec as shares
from pipelines.recipe.recipe import GuestDefaults
from pipelines.recipe.share_spec import ShareSpec
from pipelines.settings import Settings


@dataclass(frozen=True)
class InstallOptions:
    """What is asked of one guest beside its name; ``memory``, ``vcpus`` and ``cache`` are empty for the recipe's own.

    ``overlayfs`` and ``shares`` are asked for beside what the recipe says. A ``transient`` guest has none of the
    recipe's shares: what nobody keeps has no business in what others keep.
    ``transient`` says whose guest it is that nobody keeps: whoever made it may remove it.
    ``clone`` is the way in which the root is made, one of `roots.WAYS`.
    ``consent`` answers whether the host gives what the recipe asks of it; without it, nothing is given.
    """

    memory: int | None = None
    vcpus: int | None = None
    hostname: str = ""
    authorized_keys: str = ""
    cache: str = ""
    overlayfs: bool = False
    shares: tuple[ShareSpec, ...] = ()
    transient: str = ""
    clone: str = "auto"
    consent: Consent | None = None


def options(
    memory: str,
    vcpus: int,
    hostname: str,
    ssh_key: str,
    *,
    cache: str = "",
    overlayfs: bool = False,
    share: Sequence[str] = (),
    clone: str = "auto",
    consent: Consent | None = None,
) -> InstallOptions:
    """Validate what was given on the command line by the recipe's own rules; raises `VirtrootError`."""
    asking = {"memory": memory, "vcpus": vcpus, "cache": cache}
    given: Mapping[str, object] = {key: value for key, value in asking.items() if value}
    try:
        asked = GuestDefaults.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field, message = str(first["loc"][0]), str(first["msg"]).removeprefix("Value error, ")
        hint = "sizes are written like 2GiB; CPUs are a whole number; the cache is auto, mixed, always or none"
        raise VirtrootError(f"--{field}: {message}", hint) from error
    try:
        given_shares = tuple(map(shares.parse, share))
        shares.refuse_duplicates(given_shares)
    except ValueError as error:
        raise VirtrootError(f"--share: {error}", "like --share data:/srv/data:/srv/data:ro") from error
    keys = identity.read_ssh_key(ssh_key) if ssh_key else ""
    return InstallOptions(
        asked.memory if memory else None,
        asked.vcpus if vcpus else None,
        hostname,
        keys,
        cache=cache,
        overlayfs=overlayfs,
        shares=given_shares,
        clone=clone_methods.checked_way(clone),
        consent=consent,
    )


def own_key(artifact: Artifact) -> str:
    """Return the file with the public key of who runs this, and say that it may log in; empty where there is none.

    A system that keeps its identity lets in whom it let in before, and nobody else by itself.
    """
    path = next(iter(identity.own_ssh_keys()), "")
    if not path or (artifact.manifest.origin and artifact.manifest.origin.machine_id):
        return ""
    try:
        identity.read_ssh_key(path)
    except VirtrootError as error:
        warn(f"nobody gets to log in by ssh: {error.what}")
        return ""
    say(f"{path} may log in as root; --ssh-key takes another one")
    return path


def install(name: str, artifact: Artifact, options: InstallOptions, settings: Settings) -> Domain:
    """Install ``artifact`` as the guest ``name``, defined and shut off.

    Everything that can be refused is refused before anything changes.
    """
    name, hostname = place.checked_name(name), _hostname(name, options)
    manifest = artifact.manifest
    hypervisor = connect.connect(settings)
    if not hypervisor.embedded:
        _check_host()
    network = hypervisor.network(manifest.recipe.guest.network)
    wanted = _wanted(artifact, options)
    if pool.look(hypervisor, settings) is None:
        hostdir.refuse_shared(hypervisor, settings.pool_path)
    directory = pool.look(hypervisor, settings) or settings.pool_path
    _refuse_unaccepted(hypervisor, directory, name, artifact, options, wanted)
    paths = Place(pool.find(hypervisor, settings), name)
    with hold.new(hypervisor, paths), ExitStack() as held:
        publication.refuse_taken(hypervisor, paths)
        shared = hostdir.find(hypervisor, paths.pool, wanted)
        uuid = _uuid(hypervisor, artifact)
        wrapper = _wrapper(artifact, options, settings)
        domain = _domain(paths, artifact, options, shared, wrapper, network=network, kvm=hypervisor.kvm, uuid=uuid)
        way = clone_methods.way(hypervisor.target, paths.pool, options.clone)
        if domain.overlayfs:
            overlayfs.refuse_layer(way)
            overlayfs.refuse_unfit(hypervisor.target, paths.pool)
        publication.clear(hypervisor, paths)
        try:
            lying_on = partial(guests.lying_on, hypervisor)
            made = roots.root(hypervisor.target, paths.pool, artifact, way, paths.partial_root, lying_on)
            tree = held.enter_context(made)
            if tree:
                domain = replace(domain, golden=tree.path, lower=tree.digest if way == "overlay" else "")
            with step("identity, kernel"):
                baselines.keep(hypervisor.target, paths.partial_root, artifact.manifest, paths.partial_boot, tree)
                _personalise(
                    hypervisor, paths, artifact, domain, Identity(hostname, domain.uuid, options.authorized_keys)
                )
                if domain.cache == mounting.MIXED:
                    mounting.mount_usr(hypervisor.target, paths.partial_root)
                for each, found in zip(wanted, shared, strict=True):
                    mounting.mount(hypervisor.target, paths.partial_root, found, each.point)
                hostdir.make(hypervisor.target, shared)
            with step("defining the domain"):
                if domain.lower:
                    # What is mounted cannot be renamed.
                    beside.unmount(hypervisor.target, paths.partial_root)
                definition = domain_xml(domain)
                virtiofsd_wrapper.install(hypervisor.target, ET.fromstring(definition))  # noqa: S314 - just made here
                publication.publish(hypervisor, paths, definition)
        except BaseException:
            # The reason why it failed is what the user has to see; the next install clears what stays now.
            with contextlib.suppress(VirtrootError):
                publication.clear(hypervisor, paths)
            raise
        if domain.lower:
            beside.mount(hypervisor.target, domain.root, domain.golden, domain.lower)
            mount_units.enable(hypervisor.target, domain.root, domain.golden)
        if beside.install_hook(hypervisor.target) and not hypervisor.embedded:
            say("libvirt's hook is new; until its daemon restarts, only ./inv start hands over a changed kernel")
    return domain


def preview_xml(name: str, artifact: Artifact, options: InstallOptions, settings: Settings) -> str:
    """Return the domain's XML as `install` would define it, but for its UUID; start and change nothing.

    Where no hypervisor runs yet, the XML is for the embedded one without KVM.
    """
    name, _ = place.checked_name(name), _hostname(name, options)
    hypervisor = connect.find(settings)
    asked, wanted = artifact.manifest.recipe.guest.network, _wanted(artifact, options)
    if hypervisor is None:
        network, directory, kvm = "user" if asked == "auto" else asked, settings.pool_path, False
        shared = hostdir.unseen(directory, wanted)
    else:
        network, kvm = hypervisor.network(asked), hypervisor.kvm
        directory = pool.look(hypervisor, settings) or settings.pool_path
        shared = hostdir.find(hypervisor, directory, wanted)
    paths = Place(directory, name)
    wrapper = _wrapper(artifact, options, settings)
    return domain_xml(_domain(paths, artifact, options, shared, wrapper, network=network, kvm=kvm, uuid=uuid4()))


def _hostname(name: str, options: InstallOptions) -> str:
    return identity.checked_hostname(options.hostname or name.replace(".", "-").replace("_", "-"))


def _uuid(hypervisor: Hypervisor, artifact: Artifact) -> UUID:
    """Return a new guest's id: one of its own, or the machine-id of a system that keeps its identity."""
    origin = artifact.manifest.origin
    if origin is None or not origin.machine_id:
        return uuid4()
    kept = UUID(origin.machine_id)
    twin = next((known.name for known in hypervisor.domains() if known.uuid == str(kept)), "")
    if twin:
        raise VirtrootError(
            f"{artifact.id} keeps the identity of {origin.hostname or origin.name}, which {twin} has already",
            f"remove {twin} first, or import the system anew without --keep-identity",
        )
    return kept


def _refuse_unaccepted(
    hypervisor: Hypervisor,
    directory: str,
    name: str,
    artifact: Artifact,
    options: InstallOptions,
    wanted: Sequence[ShareSpec],
) -> None:
    """Raise `VirtrootError` where the artifact asks of the host what the user neither gave nor consented to."""
    recorded = [each for each in wanted if each not in options.shares]
    found = hostdir.unseen(directory, recorded)
    lines = (
        *host_requests.describe_shares(recorded, found, guests.every(hypervisor) if recorded else ()),
        *host_requests.describe(artifact.manifest.recipe.guest, overlayfs_given=options.overlayfs),
    )
    host_requests.refuse_unaccepted(name, artifact.id, lines, options.consent)


def _wanted(artifact: Artifact, options: InstallOptions) -> tuple[ShareSpec, ...]:
    """Return all shares that the guest is to have, the recipe's first.

    One that the user gives takes the place of the recipe's share of that tag. Raises `VirtrootError` for a recorded
    directory of the host: a recipe can come from anybody, and would lend out what the user never named.
    """
    texts = () if options.transient else artifact.manifest.recipe.guest.shares
    given = {each.tag for each in options.shares}
    try:
        recorded = [each for text in texts if (each := shares.parse(text, recorded=True)).tag not in given]
        wanted = (*recorded, *options.shares)
        shares.refuse_duplicates(wanted)
    except ValueError as error:
        raise VirtrootError(str(error), "look at --share, and at the shares of the recipe's guest") from error
    host_requests.refuse_absolute(recorded, artifact.id)
    return wanted


def _wrapper(artifact: Artifact, options: InstallOptions, settings: Settings) -> Wrapper:
    """Return what the guest needs of its virtiofsd."""
    return Wrapper(
        acl=takes_acls(artifact.manifest.kernel_version),
        overlayfs=options.overlayfs or artifact.manifest.recipe.guest.overlayfs,
        handles=settings.inode_file_handles == "prefer",
    )


def _domain(
    paths: Place,
    artifact: Artifact,
    options: InstallOptions,
    shared: tuple[Share, ...],
    wrapper: Wrapper,
    *,
    network: str,
    kvm: bool,
    uuid: UUID,
) -> Domain:
    manifest = artifact.manifest
    recorded: RecordedGuest = manifest.recipe.guest
    return Domain(
        name=paths.name,
        uuid=uuid,
        artifact=manifest.id,
        root=paths.root,
        boot=paths.boot,
        kernel=manifest.boot.kernel,
        initrd=manifest.boot.initrd,
        cmdline=manifest.boot.cmdline,
        memory=options.memory or recorded.memory,
        vcpus=options.vcpus or recorded.vcpus,
        network=network,
        cache=options.cache or recorded.cache,
        wrapper=wrapper,
        shares=shared,
        transient=options.transient,
        kvm=kvm,
    )


def _check_host() -> None:
    if os.geteuid() != 0:
        raise VirtrootError("a root's files belong to many users, so unpacking it needs root", "run this with sudo")
    for program in ("tar", "zstd"):
        if not process.is_installed(program):
            raise VirtrootError(f"{program} is not installed", f"install the package {program}")


def _personalise(
    hypervisor: Hypervisor, paths: Place, artifact: Artifact, domain: Domain, identity_of_guest: Identity
) -> None:
    target = hypervisor.target
    origin = artifact.manifest.origin
    if origin is None:
        identity.write(target, paths.partial_root, identity_of_guest)
    elif not origin.machine_id:
        identity.rewrite(target, paths.partial_root, identity_of_guest)
    elif identity_of_guest.authorized_keys:
        identity.add_keys(target, paths.partial_root, identity_of_guest.authorized_keys)
    identity.name_files(target, paths.partial_root, artifact.manifest)
    if identity_of_guest.authorized_keys:
        identity.warn_of_sshd(target, paths.partial_root)
    beside.hand_over(target, paths.partial_root, paths.partial_boot, domain.kernel, domain.initrd)
    beside.put_file(target, place.manifest(paths.partial_boot), artifact.manifest_bytes(), 0o600)


@task(
    name="install",
    positional=["name"],
    iterable=["share"],
    help={
        **GUEST,
        "distro": "install the latest build of this recipe",
        "recipe": "install the latest build of this recipe file",
        "artifact": "install the artifact in this directory",
        "pool": "libvirt's dir pool",
        "pool-path": "where to make the pool when it is missing",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "ssh-key": "public key file of who may log in as root, instead of your own; none for nobody",
        "hostname": "host name, when it is not the guest's name",
        "cache": "override the recipe's cache of virtiofsd: auto, mixed, always or none",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], a further directory; may be given several times",
        "overlayfs": "let the guest mount overlayfs (Docker); virtiofsd then keeps CAP_SYS_ADMIN on the host",
        "clone": "how the root is made: auto (the best there is), snapshot, reflink, overlay or copy",
        "print-xml": "print the domain's XML and change nothing",
        **ACCEPT,
    },
)
def install_task(
    c: Context,
    name: str,
    share: list[str],
    distro: str = "",
    recipe: str = "",
    artifact: str = "",
    pool: str = "",
    pool_path: str = "",
    memory: str = "",
    vcpus: int = 0,
    ssh_key: str = "",
    hostname: str = "",
    cache: str = "",
    overlayfs: bool = False,
    clone: str = "auto",
    print_xml: bool = False,
    accept: bool = False,
) -> None:
    """Install an artifact as a guest, defined and shut off.

    ./inv install web --distro debian
    ./inv install db --distro debian --memory 4GiB --share data:common:/srv/data
    """
    settings = settings_of(c, pool=pool, pool_path=pool_path)
    made, kind = inputs.choose_artifact(settings, name, distro, recipe, artifact)
    say(f"{name} is made from {f'the {kind} {made.id}' if kind != 'artifact' else made.directory}")
    key = own_key(made) if not ssh_key else "" if ssh_key == "none" else ssh_key
    consent = host_requests.consent(accept)
    wanted = options(
        memory, vcpus, hostname, key, cache=cache, overlayfs=overlayfs, share=share, clone=clone, consent=consent
    )
    if print_xml:
        result(preview_xml(name, made, wanted, settings))
    else:
        domain = install(name, made, wanted, settings)
        say(f"installed in {domain.root}; boot it: ./inv start {name}")
