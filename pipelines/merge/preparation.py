"""Another root for a guest: made under a hidden name, planned, given the guest's state, and swapped in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import (
    hold,
    identity,
    manifest_copy,
    previous_roots,
    publication,
    root_source,
    swap,
    virtiofsd_wrapper,
)
from pipelines.guest.guest import Guest
from pipelines.guest.previous_roots import PreviousRoot
from pipelines.guest.root_source import RootSource
from pipelines.host import lines
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, step, warn
from pipelines.merge import baselines, copy_plan, proof, upgrade_plan
from pipelines.merge.baselines import Inventory
from pipelines.merge.choices import Choices
from pipelines.merge.etc_merge import Read
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.pool import clone_methods, overlayfs, place, roots, shares
from pipelines.pool.place import Place
from pipelines.target import durable, mounts, programs
from pipelines.text import one_line

#: Bytes of a file in /etc that is merged; a larger one is a conflict.
_MOST_BYTES = 1 << 20

#: Paths that a message names.
_SHOWN = 5

#: Commands that are shown after an upgrade. A guest could make the list as long as it wants.
_MOST_COMMANDS = 50


@dataclass(frozen=True)
class PreparedRoot:
    """Hold another root for a guest, in ``directory``, and what its plan needs.

    ``source`` says from what it was made, and ``base`` is the guest's baseline. With ``is_previous`` it is a copy
    of the previous root, and ``base`` is the inventory of the guest's present root at install.
    """

    paths: Place
    directory: str
    manifest: Manifest
    source: RootSource
    base: Inventory
    theirs: Inventory
    is_previous: bool = False

    @property
    def root(self) -> str:
        """Return the path of the root."""
        return f"{self.directory}/root"


@contextmanager
def hold_guest(hypervisor: Hypervisor, name: str) -> Iterator[Guest]:
    """Hold the lock of a guest that has a root of its own, after any unfinished change of it was finished."""
    hold.check_user(hypervisor)
    with hold.hold(hypervisor, name) as guest:
        guest.refuse_shared_root()
        guest.refuse_mounts()
        guest.mount_layers()
        yield guest


def add_kept(guest: Guest, choices: Choices, recorded: Sequence[str] = ()) -> Choices:
    """Return ``choices`` with the paths that the recipe (``recorded``) and earlier upgrades of the guest keep."""
    return choices.add_kept((*recorded, *_read_kept(guest)))


def _read_kept(guest: Guest) -> list[str]:
    """Return the paths that the guest's upgrades kept because the user named them."""
    noted = guest.target.run(["cat", place.keep_list(guest.boot)], check=False).stdout.decode(errors="surrogateescape")
    # Earlier versions wrote one path a line.
    return [str(path) for path in json.loads(noted)] if noted.startswith("[") else noted.split("\n")[:-1]


@contextmanager
def prepare_from_artifact(
    guest: Guest, artifact: Artifact, clone: str, made_of: Artifact | None
) -> Iterator[PreparedRoot]:
    """Make another root from ``artifact`` by the clone method ``clone``.

    ``made_of`` is the artifact of the guest, if it is still there. The root is deleted in the end, unless it was
    swapped in.
    """
    with _make_directory(guest) as (paths, directory), ExitStack() as open_trees:
        target, manifest_now = guest.target, artifact.manifest
        asked = "overlay" if guest.source.lower and clone == "auto" else clone
        way = clone_methods.choose_method(target, paths.pool, asked)
        if guest.overlayfs:
            overlayfs.refuse_layer(way)
        lying_on = partial(guests.find_guests_on, guest.hypervisor)
        making_root = roots.make_root(target, paths.pool, artifact, way, f"{directory}/root", lying_on)
        tree = open_trees.enter_context(making_root)
        baselines.write_baseline(target, f"{directory}/root", manifest_now, paths.partial_boot, tree)
        theirs = baselines.parse(target.run(["cat", place.baseline(paths.partial_boot)]).stdout)
        base = baselines.get_baseline(guest, manifest_copy.read(guest), made_of)
        durable.put(target, place.manifest(paths.partial_boot), artifact.manifest_bytes(), 0o600)
        boot = manifest_now.boot
        layered = tree.digest if tree and way == "overlay" else ""
        now = RootSource(artifact.id, boot.kernel, boot.initrd, boot.cmdline, tree.path if tree else "", layered)
        yield PreparedRoot(paths, directory, manifest_now, now, base, theirs)


@contextmanager
def prepare_from_previous(guest: Guest, previous: PreviousRoot, base: Inventory) -> Iterator[PreparedRoot]:
    """Make a copy of a previous root, which itself stays as it is.

    ``base`` is the inventory of the guest's present root at install.
    """
    with _make_directory(guest) as (paths, directory):
        target, source, now = guest.target, f"{previous.directory}/root", previous.source
        manifest_then = manifest_copy.read(guest, previous.about)
        if now.lower:
            with step("copying the layer of the previous root"):
                clone_methods.copy_layers(target, source, f"{directory}/root")
            programs.mount_layers(target, f"{directory}/root", now.golden, now.lower)
        else:
            way = clone_methods.choose_method(target, paths.pool, "auto", source=source)
            with step(f"making the root: {clone_methods.DESCRIPTIONS[way]} of the previous one"):
                clone_methods.clone(target, way, source, f"{directory}/root", nested=True)
        _begin_boot_directory(guest, previous, paths)
        theirs = baselines.take_inventory(target, f"{directory}/root", manifest_then, base)
        yield PreparedRoot(paths, directory, manifest_then, now, base, theirs, is_previous=True)


@contextmanager
def _make_directory(guest: Guest) -> Iterator[tuple[Place, str]]:
    paths = place.of_root(guest.root)
    try:
        guest.target.run(["mkdir", "--mode=0700", "--", paths.prepared])
        yield paths, paths.prepared
    finally:
        # Otherwise this error would hide the reason of the failure. The next task deletes what stays.
        with contextlib.suppress(VirtrootError):
            publication.finish_interrupted(guest)


def plan_upgrade(guest: Guest, prepared: PreparedRoot, choices: Choices) -> UpgradePlan:
    """Return the plan for the guest in the root that was prepared for it.

    Raises `VirtrootError` where files would get another owner. A guest that runs may change its files meanwhile.
    """
    target = guest.target
    with step("comparing"):
        ours = baselines.take_inventory(target, guest.root, manifest_copy.read(guest), prepared.base)
        points = shares.read_mount_points_or_warn(target, guest.root).values()
        read = (_make_reader(guest, guest.root), _make_reader(guest, prepared.root))
        distro = prepared.manifest.recipe.distro
        plan = upgrade_plan.plan(
            prepared.base,
            ours,
            prepared.theirs,
            distro,
            choices,
            read,
            lines.merge,
            points,
            is_previous=prepared.is_previous,
        )
        owners = programs.find_owners(
            target, guest.root, prepared.root, copy_plan.list_copied_paths(plan), plan.systems
        )
        strangers = copy_plan.list_new_owners(plan, ours, owners)
        sizes = {**copy_plan.measure_system_trees(plan), **owners["sizes"]}
        systems = {**dict.fromkeys(owners["systems"], "it has accounts and programs of its own"), **plan.systems}
        plan = replace(
            plan,
            sizes=sizes,
            systems=systems,
            flagged=tuple(owners["flagged"]),
            before=guest.source.artifact,
            after=prepared.source.artifact,
        )
    if strangers:
        raise VirtrootError(
            f"what is kept has owners without a name in {guest.name}, and would belong to: {', '.join(strangers)}",
            "give it an owner in the guest, or do not keep it",
        )
    return plan


def _make_reader(guest: Guest, root: str) -> Read:
    def read(path: str) -> bytes | None:
        try:
            return programs.read(guest.target, root, path, _MOST_BYTES)
        except VirtrootError:
            return None

    return read


def copy_state(guest: Guest, prepared: PreparedRoot, plan: UpgradePlan) -> None:
    """Copy the guest's state into the prepared root. The guest's own root stays as it is."""
    with step("copying the guest's state"):
        programs.copy_state(
            guest.target,
            guest.root,
            prepared.root,
            copy_plan.build_copy_plan(plan, prepared.base, plan.ours, prepared.theirs),
        )
        identity.replace_build_name(guest.target, prepared.root, prepared.manifest)


def swap_in(guest: Guest, prepared: PreparedRoot, keep: Sequence[str], plan: UpgradePlan) -> None:
    """Give a guest that is off the prepared root, and keep its root as a previous one.

    ``keep`` are the paths that later upgrades keep, too. Raises `VirtrootError`, with the guest as it was, where the
    root differs from ``plan``.
    """

    def prove(at_install: Inventory) -> None:
        if wrong := list(proof.list_differences(plan, prepared.theirs, at_install)):
            more = ", …" if len(wrong) > _SHOWN else ""
            raise VirtrootError(
                f"the new root of {guest.name} is not as planned: {'; '.join(map(one_line, wrong[:_SHOWN]))}{more}",
                "report this message: it is a defect of virtroot; the guest stays on its root",
            )

    paths = prepared.paths
    durable.put(guest.target, place.keep_list(paths.partial_boot), json.dumps(list(keep)).encode(), 0o600)
    with step("swapping the roots"):
        _swap(
            guest,
            paths,
            prepared.directory,
            previous_roots.choose_directory(guest),
            prepared.source,
            prepared.manifest,
            prove,
        )


def report(name: str, plan: UpgradePlan) -> None:
    """Print what of an upgraded guest is not as it was, in addition to what the user decided."""
    for command, why in plan.to_run[:_MOST_COMMANDS]:
        say(f"to run in {name}: {one_line(command)}, since {why}")
    if len(plan.to_run) > _MOST_COMMANDS:
        warn(f"{len(plan.to_run) - _MOST_COMMANDS} more commands to run in {name} are not shown")
    for what, found in (
        (f"on hold in {name}, with another version now", list(plan.held)),
        ("not immutable or append-only any more", [f"/{path}" for path in plan.flagged]),
        (f"as in the package again, and not as {name} had it", [f"/{each.name}" for each in plan.reverted]),
    ):
        if found:
            more = ", …" if len(found) > _SHOWN else ""
            warn(f"{what}: {', '.join(map(one_line, found[:_SHOWN]))}{more}")


def move(guest: Guest, prepared: PreparedRoot, choices: Choices, command: str, timeout: float) -> UpgradePlan:
    """Move a guest to a prepared root together with its own state, and leave it off; return the plan.

    A running guest is shut down, and booted again if that fails; ``timeout`` is in seconds. Raises `VirtrootError`,
    with nothing changed, if the user has to decide something; ``command`` is named in its hint.
    """
    plan_upgrade(guest, prepared, choices).refuse_open(command)
    with hold.shut_down(guest, timeout):
        # Plan again: the guest may have changed its files until it was off.
        plan = plan_upgrade(guest, prepared, choices)
        plan.refuse_open(command)
        copy_state(guest, prepared, plan)
        swap_in(guest, prepared, choices.keep, plan)
    return plan


def swap_back(guest: Guest, previous: PreviousRoot) -> str:
    """Swap the root of a guest that is off with a previous one; return the directory of the root that it had.

    That root was replaced now, so its directory gets a new name, which `prune` reads as its time.
    """
    target, paths, root = guest.target, place.of_root(guest.root), f"{previous.directory}/root"
    final = previous_roots.choose_directory(guest)
    with step("swapping the roots back"):
        if previous.source.lower:
            programs.mount_layers(target, root, previous.source.golden, previous.source.lower)
        try:
            _begin_boot_directory(guest, previous, paths)
            mounts.delete(target, f"{previous.directory}/next")
            _swap(guest, paths, previous.directory, final, previous.source, manifest_copy.read(guest, previous.about))
        except BaseException:
            if previous.source.lower:
                # A previous root cannot be deleted while something is mounted in it.
                with contextlib.suppress(VirtrootError):
                    programs.unmount_layers(target, root)
            raise
    return final


def _begin_boot_directory(guest: Guest, previous: PreviousRoot, paths: Place) -> None:
    """Begin a boot directory for a previous root: its manifest and baseline, and what this guest keeps."""
    guest.target.run(["mkdir", "--parents", "--mode=0711", paths.partial_boot])
    script = 'if [ -f "$1" ]; then cp -- "$1" "$2/"; fi'
    for path in (place.manifest(previous.about), place.baseline(previous.about), place.keep_list(guest.boot)):
        guest.target.run(["sh", "-ec", f"umask 077; {script}", "copy", path, paths.partial_boot])


def _swap(
    guest: Guest,
    paths: Place,
    directory: str,
    final: str,
    now: RootSource,
    manifest: Manifest,
    prove: Callable[[Inventory], None] | None = None,
) -> None:
    """Swap the guest's root with the one in ``directory``; see `swap.swap_roots`.

    ``prove`` raises `VirtrootError` where the inventory of the root is not as planned.
    """
    target = guest.target
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {guest.name} was removed meanwhile", "see ./inv list")
    at = shares.read_mount_points_or_warn(target, guest.root)
    try:
        shares.update_fstab(target, f"{directory}/root", guest.shares, at, usr=guest.usr)
    except VirtrootError as error:
        # A guest that damaged its fstab must not have to stay on its present root, which may be worse.
        warn(f"{guest.name} may not mount what it shares: {error.what}")
    programs.copy_kernel(target, f"{directory}/root", paths.partial_boot, now.kernel, now.initrd)
    # The guest's age is the time of this file. An upgrade does not change it.
    target.run(["touch", "--reference", place.manifest(guest.boot), "--", place.manifest(paths.partial_boot)])
    baselines.write_install_inventory(target, f"{directory}/root", manifest, paths.partial_boot)
    if prove is not None:
        prove(baselines.parse(target.run(["cat", place.install_inventory(paths.partial_boot)]).stdout))
    swap.describe(target, f"{directory}/next", root_source.read(definition), guest.boot)
    root_source.write(definition, guest.boot, now)
    virtiofsd_wrapper.update(definition, programs.read_kernel_release(target, paths.partial_boot))
    virtiofsd_wrapper.install(target, definition)
    swap.swap_roots(guest, paths, directory, final, definition, now)
