"""Install an artifact as a guest."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

from pipelines.artifact.artifact import Artifact
from pipelines.builder import inputs
from pipelines.cli.task import ACCEPT, GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, host_requests, hostdir, identity, publication, virtiofsd_wrapper
from pipelines.guest.domain import Domain, make_xml
from pipelines.guest.identity import Identity
from pipelines.guest.install_options import InstallOptions, parse_options
from pipelines.guest.root_source import RootSource
from pipelines.host import process
from pipelines.libvirt import host_files
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper, has_acl_support
from pipelines.log import result, say, step, warn
from pipelines.merge import baselines
from pipelines.pool import clone_methods, mount_units, overlayfs, place, pool, roots
from pipelines.pool import shares as mounting
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.recipe import share_spec as shares
from pipelines.recipe.share_spec import ShareSpec
from pipelines.settings import Settings
from pipelines.target import durable, programs


def find_own_key(artifact: Artifact) -> str:
    """Return the file with the user's public key, and print that it may log in; empty if there is none.

    A system that keeps its identity gets no additional key by default: only its own keys may log in.
    """
    path = next(iter(identity.find_ssh_keys()), "")
    if not path or (artifact.manifest.origin and artifact.manifest.origin.machine_id):
        return ""
    try:
        identity.read_ssh_key(path)
    except VirtrootError as error:
        warn(f"no key may log in by ssh: {error.what}")
        return ""
    say(f"{path} may log in as root; use --ssh-key for another key")
    return path


def install(name: str, artifact: Artifact, options: InstallOptions, ctx: CommandContext) -> Domain:
    """Install ``artifact`` as the guest ``name``, defined and shut off.

    All checks come first, so that an error leaves nothing changed.
    """
    name, hostname = place.check_name(name), _choose_hostname(name, options)
    manifest = artifact.manifest
    hypervisor = ctx.hypervisor
    if not hypervisor.embedded:
        _check_host()
    network = hypervisor.resolve_network(manifest.recipe.guest.network)
    wanted = _merge_shares(artifact, options)
    if pool.find_directory(hypervisor, ctx.settings) is None:
        hostdir.refuse_shared(hypervisor, ctx.settings.pool_path)
    directory = pool.find_directory(hypervisor, ctx.settings) or ctx.settings.pool_path
    _refuse_unaccepted(hypervisor, directory, name, artifact, options, wanted)
    paths = Place(pool.ensure_directory(hypervisor, ctx.settings), name)
    with hold.new(hypervisor, paths), ExitStack() as held:
        publication.refuse_taken(hypervisor, paths)
        shared = hostdir.resolve(hypervisor, paths.pool, wanted)
        uuid = _choose_uuid(hypervisor, artifact)
        wrapper = _choose_wrapper(artifact, options, ctx.settings)
        domain = _make_domain(paths, artifact, options, shared, wrapper, network=network, kvm=hypervisor.kvm, uuid=uuid)
        method = clone_methods.choose_method(hypervisor.target, paths.pool, options.clone)
        if domain.overlayfs:
            overlayfs.refuse_layer(method)
            overlayfs.refuse_unfit(hypervisor.target, paths.pool)
        publication.clear(hypervisor, paths)
        try:
            find_guests_on = partial(guests.find_guests_on, hypervisor)
            made = roots.make_root(hypervisor.target, paths.pool, artifact, method, paths.partial_root, find_guests_on)
            tree = held.enter_context(made)
            if tree:
                lower = tree.digest if method == "overlay" else ""
                domain = replace(domain, source=replace(domain.source, golden=tree.path, lower=lower))
            with step("identity, kernel"):
                baselines.write_baseline(
                    hypervisor.target, paths.partial_root, artifact.manifest, paths.partial_boot, tree
                )
                _write_identity(
                    hypervisor, paths, artifact, domain, Identity(hostname, domain.uuid, options.authorized_keys)
                )
                if domain.cache == mounting.MIXED:
                    mounting.add_usr_mount(hypervisor.target, paths.partial_root)
                for each, found in zip(wanted, shared, strict=True):
                    mounting.add_mount(hypervisor.target, paths.partial_root, found, each.point)
                hostdir.make_directories(hypervisor.target, shared)
            with step("defining the domain"):
                if domain.source.lower:
                    # A mount point cannot be renamed.
                    programs.unmount_layers(hypervisor.target, paths.partial_root)
                definition = make_xml(domain)
                virtiofsd_wrapper.install(hypervisor.target, ET.fromstring(definition))  # noqa: S314 - from make_xml
                publication.publish(hypervisor, paths, definition)
        except BaseException:
            # An error of the clean-up would hide the error that the user has to see; the next install cleans up.
            with contextlib.suppress(VirtrootError):
                publication.clear(hypervisor, paths)
            raise
        if domain.source.lower:
            programs.mount_layers(hypervisor.target, domain.root, domain.source.golden, domain.source.lower)
            mount_units.enable(hypervisor.target, domain.root, domain.source.golden)
        if host_files.install_hook(hypervisor.target) and not hypervisor.embedded:
            say("libvirt's hook was updated; until libvirt's daemon restarts, only ./inv start copies a new kernel")
    return domain


def preview_xml(name: str, artifact: Artifact, options: InstallOptions, ctx: CommandContext) -> str:
    """Return the domain's XML as `install` would define it, except for its UUID; start and change nothing.

    If no hypervisor is running yet, the XML is for the embedded one without KVM.
    """
    name, _ = place.check_name(name), _choose_hostname(name, options)
    hypervisor = ctx.find_hypervisor()
    asked, wanted = artifact.manifest.recipe.guest.network, _merge_shares(artifact, options)
    if hypervisor is None:
        network, directory, kvm = "user" if asked == "auto" else asked, ctx.settings.pool_path, False
        shared = hostdir.predict(directory, wanted)
    else:
        network, kvm = hypervisor.resolve_network(asked), hypervisor.kvm
        directory = pool.find_directory(hypervisor, ctx.settings) or ctx.settings.pool_path
        shared = hostdir.resolve(hypervisor, directory, wanted)
    paths = Place(directory, name)
    wrapper = _choose_wrapper(artifact, options, ctx.settings)
    return make_xml(_make_domain(paths, artifact, options, shared, wrapper, network=network, kvm=kvm, uuid=uuid4()))


def _choose_hostname(name: str, options: InstallOptions) -> str:
    return identity.check_hostname(options.hostname or name.replace(".", "-").replace("_", "-"))


def _choose_uuid(hypervisor: Hypervisor, artifact: Artifact) -> UUID:
    """Return the UUID of a new guest: a random one, or the machine-id of a system that keeps its identity."""
    origin = artifact.manifest.origin
    if origin is None or not origin.machine_id:
        return uuid4()
    kept = UUID(origin.machine_id)
    twin = next((known.name for known in hypervisor.domains() if known.uuid == str(kept)), "")
    if twin:
        raise VirtrootError(
            f"{artifact.id} keeps the identity of {origin.hostname or origin.name}, which {twin} already has",
            f"remove {twin} first, or import the system again without --keep-identity",
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
    """Raise `VirtrootError` if the artifact requests from the host what the user neither gave nor consented to."""
    recorded = [each for each in wanted if each not in options.shares]
    found = hostdir.predict(directory, recorded)
    lines = (
        *host_requests.describe_shares(recorded, found, guests.list_guests(hypervisor) if recorded else ()),
        *host_requests.describe(artifact.manifest.recipe.guest, overlayfs_given=options.overlayfs),
    )
    host_requests.refuse_unaccepted(name, artifact.id, lines, options.consent)


def _merge_shares(artifact: Artifact, options: InstallOptions) -> tuple[ShareSpec, ...]:
    """Return all shares of the new guest, the recipe's first.

    A share that the user gives replaces the recipe's share with the same tag. Raises `VirtrootError` for a recorded
    directory of the host: a recipe can come from anyone, and must not share what the user did not name.
    """
    texts = () if options.transient else artifact.manifest.recipe.guest.shares
    given = {each.tag for each in options.shares}
    try:
        recorded = [each for text in texts if (each := shares.parse(text, recorded=True)).tag not in given]
        wanted = (*recorded, *options.shares)
        shares.refuse_duplicates(wanted)
    except ValueError as error:
        raise VirtrootError(str(error), "check --share, and the shares of the recipe's guest") from error
    host_requests.refuse_absolute(recorded, artifact.id)
    return wanted


def _choose_wrapper(artifact: Artifact, options: InstallOptions, settings: Settings) -> Wrapper:
    """Return what the guest needs from its virtiofsd."""
    return Wrapper(
        acl=has_acl_support(artifact.manifest.kernel_version),
        overlayfs=options.overlayfs or artifact.manifest.recipe.guest.overlayfs,
        handles=settings.inode_file_handles == "prefer",
    )


def _make_domain(
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
    recorded, boot = artifact.manifest.recipe.guest, artifact.manifest.boot
    return Domain(
        name=paths.name,
        uuid=uuid,
        source=RootSource(artifact.id, boot.kernel, boot.initrd, boot.cmdline),
        root=paths.root,
        boot=paths.boot,
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
        raise VirtrootError("unpacking a root needs root: its files have many owners", "run this with sudo")
    for program in ("tar", "zstd"):
        if not process.is_installed(program):
            raise VirtrootError(f"{program} is not installed", f"install the package {program}")


def _write_identity(
    hypervisor: Hypervisor, paths: Place, artifact: Artifact, domain: Domain, identity_of_guest: Identity
) -> None:
    target = hypervisor.target
    origin = artifact.manifest.origin
    if origin is None:
        identity.write(target, paths.partial_root, identity_of_guest)
    elif not origin.machine_id:
        identity.update(target, paths.partial_root, identity_of_guest)
    elif identity_of_guest.authorized_keys:
        identity.add_keys(target, paths.partial_root, identity_of_guest.authorized_keys)
    identity.replace_build_name(target, paths.partial_root, artifact.manifest)
    if identity_of_guest.authorized_keys:
        identity.warn_of_sshd(target, paths.partial_root)
    programs.copy_kernel(target, paths.partial_root, paths.partial_boot, domain.source.kernel, domain.source.initrd)
    durable.put(target, place.manifest(paths.partial_boot), artifact.manifest_bytes(), 0o600)


@task(
    name="install",
    positional=["name"],
    iterable=["share"],
    help={
        **GUEST,
        "distro": "install the latest build of this recipe",
        "recipe": "install the latest build of this recipe file",
        "artifact": "install the artifact in this directory",
        "pool": "libvirt's storage pool of type dir",
        "pool-path": "the directory of the pool, if it has to be made",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "ssh-key": "public key file for logins as root, instead of your own; none for no key",
        "hostname": "host name, if it differs from the guest's name",
        "cache": "override the recipe's cache of virtiofsd: auto, mixed, always or none",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], an additional directory; may be given several times",
        "overlayfs": "let the guest mount overlayfs (Docker); virtiofsd then keeps CAP_SYS_ADMIN on the host",
        "clone": "clone method for the root: auto (the best that works), snapshot, reflink, overlay or copy",
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
    ctx = context_of(c, pool=pool, pool_path=pool_path)
    made, kind = inputs.choose_artifact(ctx.settings, name, distro, recipe, artifact)
    say(f"installing {name} from {f'the {kind} {made.id}' if kind != 'artifact' else made.directory}")
    key = find_own_key(made) if not ssh_key else "" if ssh_key == "none" else ssh_key
    consent = host_requests.get_consent(accept)
    wanted = parse_options(
        memory, vcpus, hostname, key, cache=cache, overlayfs=overlayfs, share=share, clone=clone, consent=consent
    )
    if print_xml:
        result(preview_xml(name, made, wanted, ctx))
    else:
        domain = install(name, made, wanted, ctx)
        say(f"installed {domain.root}; boot it: ./inv start {name}")
