"""Import an existing system as an artifact, with the changes that it needs to boot from virtiofs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, Manifest, Origin, RecordedRecipe
from pipelines.builder import container, inputs, inspection, packing, private_keys
from pipelines.builder.container import Builder, run_builder
from pipelines.builder.root_container import run_container
from pipelines.builder.stages import Contain, StageRunner, find_error
from pipelines.cli.task import Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import Phase, VirtrootError
from pipelines.guest import guest as guests
from pipelines.log import result, say, step, warn
from pipelines.origin import disk as choosing
from pipelines.origin import guestfs, network, system_facts, tree_stream
from pipelines.origin import owners as owning
from pipelines.origin import rules as applying
from pipelines.origin import system as systems
from pipelines.origin.disk import Choice, Disks
from pipelines.origin.rules import Installed, Rule
from pipelines.origin.system import System
from pipelines.origin.tree_stream import Source
from pipelines.pool import place
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.generators import GENERATORS, Generator
from pipelines.recipe.stage import ROOT, Tree
from pipelines.text import split_lines

#: Mount points of the kernel's file systems in every running system.
_KERNEL_DIRECTORIES = {"dev", "proc", "run", "sys", "tmp"}

#: The package of the agent that virtroot uses to access guests.
_AGENT = "qemu-guest-agent"


def import_system(
    name: str,
    source: str,
    ctx: CommandContext,
    *,
    generator: str = "",
    include_mounts: bool = False,
    keep_identity: bool = False,
    root_device: str = "",
    key: str = "",
    shift_ids: str = "",
) -> Artifact:
    """Import the system at ``source`` as an artifact of ``name``. It is published only if it passes the inspection.

    Raises VirtrootError if it cannot be imported, or is broken.
    """
    name = place.check_name(name)
    if shift_ids not in {"", "auto"}:
        owning.get_offset(shift_ids, {})
    store = ctx.store
    found = tree_stream.get_source(source, outside=ctx.settings.output_dir, include_mounts=include_mounts)
    _refuse_running(found, ctx)
    for each in found.left_out:
        if each.partition("/")[0] not in _KERNEL_DIRECTORIES:
            warn(f"{found.path}/{each} is another file system, and is left behind; use --include-mounts to import it")
    if found.kind == "directory" and Path(found.handle_path, "etc").is_dir():
        glanced = system_facts.collect_basics(Path(found.handle_path))
        systems.refuse(glanced)
        _check_owners(glanced, shift_ids)
    engine = ctx.engine

    def choose(disks: Disks) -> Choice:
        return choosing.choose(disks, root_device, include_mounts=include_mounts)

    image, digest = container.ensure_image(engine, DISTROS["debian"], ctx.settings)
    passphrase = _read_passphrase(found, root_device, key)
    with store.lock(name):
        store.claim_import(name, found.path)
        build = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-import"
        packer = partial(container.run_unpacker, engine, image, name, ctx.settings)
        wanted = _Options(
            name, build, generator, keep_identity, partial(run_container, engine, name, ctx.settings), packer
        )
        with (
            store.new_build(name, wanted.build) as artifact,
            run_builder(engine, image, name, ctx.settings, "import", shared=True) as worker,
        ):
            with container.run_unpacker(engine, image, name, ctx.settings) as unpacker:
                if found.kind == "disk":
                    with guestfs.run_reader(engine, name, ctx.settings) as container_of_disk:
                        choice = guestfs.unpack(found, container_of_disk, passphrase, choose, unpacker)
                    for point, device in choice.left:
                        warn(f"{point} on {device} is left behind; use --include-mounts to import it")
                else:
                    tree_stream.unpack(found, unpacker)
                if shift_ids:
                    _shift_ids(unpacker, shift_ids)
            artifact.describe(_adapt(wanted, found, worker, artifact, store.failed_log(name), digest))
    made = store.newest(name)
    if made is None:
        raise VirtrootError(f"the artifact of {name} was removed after it was published", "import it again")
    rootfs = made.manifest.rootfs
    say(f"{made.id}: {rootfs.entries} entries, {rootfs.unpacked_size >> 20} MiB, packed {rootfs.size >> 20} MiB")
    return made


def _check_owners(system: System, shift_ids: str) -> None:
    """Raise VirtrootError if owners are shifted without ``shift_ids``, or if ``shift_ids`` does not fit."""
    if shift_ids:
        owning.get_offset(shift_ids, system.owners)
    else:
        owning.refuse_shifted(system.owners)


def _shift_ids(unpacker: Builder, asked: str) -> None:
    """Shift the owners of the tree in ``unpacker`` back; no program of the tree runs meanwhile."""
    offset = owning.get_offset(asked, system_facts.read_owners(unpacker.target, ROOT))
    with step(f"shifting owners back by {offset}"):
        done = unpacker.run(("/usr/local/lib/virtroot/shift-owners", ROOT, str(offset)), check=False)
    if done.returncode:
        raise VirtrootError(
            f"cannot shift the owners back by {offset}: {(split_lines(done.complaint) or ['no reason given'])[-1]}",
            "use the first user id of the container, or fix the owners before the import",
        )


def _read_passphrase(source: Source, root_device: str, key: str) -> str:
    """Return the passphrase in the file ``key``. Raises VirtrootError for options of disks with another source."""
    if source.kind != "disk" and (root_device or key):
        raise VirtrootError(
            f"{source.path} is a {source.kind}: {'--root-device' if root_device else '--key'} is for disk images only",
            "omit it",
        )
    return guestfs.read_passphrase(key) if key else ""


def _refuse_running(source: Source, ctx: CommandContext) -> None:
    """Raise VirtrootError if the source is the root of a running guest, which would change while it is read."""
    hypervisor = ctx.find_hypervisor() if source.kind == "directory" else None
    if hypervisor is None or hypervisor.embedded:
        return
    for guest in guests.list_guests(hypervisor):
        if source.path.is_relative_to(guest.root) and guest.running:
            raise VirtrootError(
                f"{source.path} is the root of the running guest {guest.name}", f"run ./inv stop {guest.name} first"
            )


@dataclass(frozen=True)
class _Options:
    name: str
    build: str
    generator: str
    keep_identity: bool
    contain: Contain
    packer: Callable[[], AbstractContextManager[Builder]]


def _adapt(
    wanted: _Options, source: Source, worker: Builder, artifact: Artifact, failed_log: Path, builder_digest: str
) -> Manifest:
    """Apply the rules to the root in ``worker``, inspect it and pack it into ``artifact``; return its manifest."""
    system = system_facts.collect(worker.target, ROOT)
    systems.refuse(system)
    owning.refuse_shifted(system.owners)
    distro = DISTROS[system.distro]
    packages = frozenset(package.name for package in packing.list_packages(worker, distro))
    systems.refuse_incomplete(system, packages)
    row = _set_boot_paths(
        system, GENERATORS[system.distro, systems.choose_generator(system, packages, wanted.generator)]
    )
    say(f"it is {system.name}, its initramfs made by {row.name}" if row.initrd else f"it is {system.name}")
    if wanted.keep_identity and not system.machine_id:
        raise VirtrootError(f"{system.name} has no machine-id to keep", "import it without --keep-identity")
    rules = applying.make_rules(system, Installed(packages, row), keep_identity=wanted.keep_identity)
    trees = {step for rule in rules for step in rule.steps if isinstance(step, Tree)}
    runner = StageRunner(inputs.pack_skeletons(trees), artifact.log, failed_log, wanted.contain)
    for rule in rules:
        _apply_rule(rule, runner, worker)
    with runner.log_stage("inspect", where=Phase.INSPECT):
        installed = packing.list_packages(worker, distro)
        names = tuple(package.name for package in installed)
        facts = inspection.gather(worker.target, ROOT, row, names)
        inspection.refuse_broken(facts)
        keys = private_keys.find(worker.target, ROOT)
    if not wanted.keep_identity:
        private_keys.warn_about(keys)
    why = f" ({said})" if (said := find_error(artifact.log)) else ""
    resolver = network.plan(system.signs, system.cards, system.found, system.distro).resolver
    if resolver == "install" and "systemd-resolved" not in names:
        warn(f"cannot install systemd-resolved: the guest has no name servers without it{why}")
    if _AGENT not in names:
        warn(f"cannot install {_AGENT}: start cannot tell when the guest is up, and exec does not work{why}")
    now = int(time.time())
    # Pack with CAP_SYS_ADMIN: without it the kernel hides trusted.* attributes, which the data of a container engine
    # below /var/lib needs.
    with runner.log_stage("pack"), wanted.packer() as packer:
        rootfs = packing.pack(packer, artifact.tarball, now, sparse=True)
    return Manifest(
        virtroot=__version__,
        name=wanted.name,
        build=wanted.build,
        plan="import",
        builder=builder_digest,
        mirror_state=(),
        source_date_epoch=now,
        recipe=RecordedRecipe(distro=system.distro, release=system.release.get("VERSION_CODENAME", "")),
        generator=row.name,
        kernel_version=facts.kernel_version,
        boot=Boot(kernel=facts.kernel, initrd=facts.initrd, cmdline=row.cmdline),
        packages=installed,
        private_keys=() if wanted.keep_identity else keys,
        rootfs=rootfs,
        stages=tuple(runner.times),
        origin=Origin(
            kind=source.kind,
            source=str(source.path),
            name=system.name,
            applied=tuple(rule.said for rule in rules),
            machine_id=system.machine_id if wanted.keep_identity else "",
            hostname=system.hostname if wanted.keep_identity else "",
        ),
    )


def _apply_rule(rule: Rule, runner: StageRunner, worker: Builder) -> None:
    if not rule.steps:
        (warn if rule.warning else say)(rule.said)
        return
    with runner.log_stage(rule.said):
        runner.run(applying.make_stage(rule), worker)


def _set_boot_paths(system: System, row: Generator) -> Generator:
    """Return the row with the boot paths of this system."""
    if system.distro == "debian":
        below = "boot/" if "vmlinuz" not in system.links and "boot/vmlinuz" in system.links else ""
        return replace(row, kernel=f"{below}{row.kernel}", initrd=row.initrd and f"{below}{row.initrd}")
    if not system.kernels:
        raise VirtrootError(f"{system.name} has no kernel in /boot", "install its package linux in the system first")
    kernel = next((name for name in system.kernels if name == "linux"), system.kernels[0])
    return replace(row, kernel=row.kernel.format(kernel=kernel), initrd=row.initrd.format(kernel=kernel))


@task(
    name="import",
    positional=["name", "source"],
    help={
        "name": "the name of the artifact, and of the guest",
        "source": "the directory of the system's /, a tarball of it, or a disk image",
        "root-device": "import the system whose root is on this device, if the disk has several",
        "key": "a file with the passphrase of an encrypted disk",
        "include-mounts": "also import other file systems mounted in the directory",
        "generator": "the initramfs generator to use, if the system has several; none for no initramfs",
        "keep-identity": "keep host name, machine-id and ssh host keys, to move the system",
        "shift-ids": "shift owners back by this number, for a tree of an unprivileged container; auto detects it",
    },
)
def import_task(
    c: Context,
    name: str,
    source: str,
    generator: str = "",
    root_device: str = "",
    key: str = "",
    include_mounts: bool = False,
    keep_identity: bool = False,
    shift_ids: str = "",
) -> None:
    """Import an existing system, changed so that it boots from virtiofs, and print the artifact's path.

    ./inv import web /srv/old/web.qcow2
    """
    made = import_system(
        name,
        source,
        context_of(c),
        generator=generator,
        include_mounts=include_mounts,
        keep_identity=keep_identity,
        root_device=root_device,
        key=key,
        shift_ids=shift_ids,
    )
    result(str(made.directory))
