"""Another root for a guest: made under a hidden name, planned, given what is the guest's own, and put in place."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pipelines.artifact import manifest as manifests
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, identity, previous_roots, publication, swap, virtiofsd_wrapper
from pipelines.guest.domain import Made, made, remade
from pipelines.guest.guest import Guest
from pipelines.guest.previous_roots import Former
from pipelines.host import lines
from pipelines.libvirt import beside
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, step, warn
from pipelines.merge import baselines, proof, upgrade_plan
from pipelines.merge.baselines import Survey
from pipelines.merge.etc_merge import Read
from pipelines.merge.upgrade_plan import Choices, Move
from pipelines.pool import clone_methods, overlayfs, place, roots, shares
from pipelines.pool.place import Place
from pipelines.target import mounts
from pipelines.text import one_line

#: Of a file in /etc that both sides changed, no more bytes are merged.
_LARGEST = 1 << 20

#: So many paths are named in a message.
_SHOWN = 5

#: A guest needs no more commands after an upgrade.
_MOST_COMMANDS = 50


@dataclass(frozen=True)
class Staged:
    """Another root for a guest, in ``directory``, and all that a plan is made of.

    ``made`` says what it was made of, ``base`` what the guest's root began as. With ``former`` the guest had this root
    before, and ``base`` is what the guest's root was when it got it.
    """

    paths: Place
    directory: str
    manifest: Manifest
    made: Made
    base: Survey
    theirs: Survey
    former: bool = False

    @property
    def root(self) -> str:
        """The root."""
        return f"{self.directory}/root"


@contextmanager
def held(hypervisor: Hypervisor, name: str) -> Iterator[Guest]:
    """Hold the lock of a guest whose root is its own, and in whose place nothing is half done."""
    if not hypervisor.embedded and os.geteuid() != 0:
        raise VirtrootError("a root's files belong to many users, so copying it needs root", "run this with sudo")
    with hold.hold(hypervisor, name) as guest:
        guest.refuse_shared_root()
        guest.refuse_mounts()
        guest.assemble()
        yield guest


def manifest(guest: Guest) -> Manifest:
    """Return the manifest of what the guest was made of."""
    return _manifest(guest, guest.boot)


def _manifest(guest: Guest, directory: str) -> Manifest:
    content = guest.target.run(["cat", place.manifest(directory)]).stdout
    return manifests.parse(content, f"the manifest of {guest.name}")


def kept(guest: Guest) -> list[str]:
    """Return the paths that were kept at the guest's upgrades beside those that always are."""
    noted = guest.target.run(["cat", place.kept(guest.boot)], check=False).stdout.decode(errors="surrogateescape")
    # A path a line, once.
    return [str(path) for path in json.loads(noted)] if noted.startswith("[") else noted.split("\n")[:-1]


@contextmanager
def of_artifact(guest: Guest, artifact: Artifact, clone: str, made_of: Artifact | None) -> Iterator[Staged]:
    """Make another root of ``artifact`` by ``clone``, one of `roots.WAYS`; ``made_of`` is the guest's, if it is there.

    What is not put in place in the end is deleted.
    """
    with _directory(guest) as (paths, directory), ExitStack() as open_trees:
        target, manifest_now = guest.target, artifact.manifest
        asked = "overlay" if guest.lower and clone == "auto" else clone
        way = clone_methods.way(target, paths.pool, asked)
        if guest.overlayfs:
            overlayfs.refuse_layer(way)
        lying_on = partial(guests.lying_on, guest.hypervisor)
        making_root = roots.root(target, paths.pool, artifact, way, f"{directory}/root", lying_on)
        tree = open_trees.enter_context(making_root)
        baselines.keep(target, f"{directory}/root", manifest_now, paths.partial_boot, tree)
        theirs = baselines.parse(target.run(["cat", place.pristine(paths.partial_boot)]).stdout)
        base = baselines.of(guest, manifest(guest), made_of)
        beside.put_file(target, place.manifest(paths.partial_boot), artifact.manifest_bytes(), 0o600)
        boot = manifest_now.boot
        layered = tree.digest if tree and way == "overlay" else ""
        now = Made(artifact.id, boot.kernel, boot.initrd, boot.cmdline, tree.path if tree else "", layered)
        yield Staged(paths, directory, manifest_now, now, base, theirs)


@contextmanager
def of_former(guest: Guest, former: Former, base: Survey) -> Iterator[Staged]:
    """Make a copy of a former root, which stays as it is; ``base`` is what the guest's root was when it got it."""
    with _directory(guest) as (paths, directory):
        target, source, now = guest.target, f"{former.directory}/root", former.made
        manifest_then = _manifest(guest, former.about)
        if now.lower:
            with step("copying the layer of the former root"):
                clone_methods.copy_layers(target, source, f"{directory}/root")
            beside.mount(target, f"{directory}/root", now.golden, now.lower)
        else:
            way = clone_methods.way(target, paths.pool, "auto", source=source)
            with step(f"making the root: {clone_methods.WORDS[way]} of the former one"):
                clone_methods.make(target, way, source, f"{directory}/root", nested=True)
        _describe_boot(guest, former, paths)
        theirs = baselines.now(target, f"{directory}/root", manifest_then, base)
        yield Staged(paths, directory, manifest_then, now, base, theirs, former=True)


@contextmanager
def _directory(guest: Guest) -> Iterator[tuple[Place, str]]:
    paths = place.of_root(guest.root)
    try:
        guest.target.run(["mkdir", "--mode=0700", "--", paths.staged])
        yield paths, paths.staged
    finally:
        # The reason why it failed is what the user has to see; the next task clears what stays now.
        with contextlib.suppress(VirtrootError):
            publication.tidy(guest)


def planned(guest: Guest, staged: Staged, choices: Choices) -> Move:
    """Return what becomes of the guest in the root that was made for it; raises `VirtrootError` where that is not safe.

    A guest that runs may be changing meanwhile.
    """
    target = guest.target
    with step("comparing"):
        ours = baselines.now(target, guest.root, manifest(guest), staged.base)
        points = shares.points_if_told(target, guest.root).values()
        read = (_reader(guest, guest.root), _reader(guest, staged.root))
        distro = staged.manifest.recipe.distro
        move = upgrade_plan.plan(
            staged.base, ours, staged.theirs, distro, choices, read, lines.merge, points, former=staged.former
        )
        owners = beside.owners(target, guest.root, staged.root, upgrade_plan.taken_along(move), move.systems)
        strangers = upgrade_plan.strangers(move, ours, owners)
        sizes = {**upgrade_plan.foreign_sizes(move), **owners["sizes"]}
        systems = {**dict.fromkeys(owners["systems"], "it has accounts and programs of its own"), **move.systems}
        move = replace(
            move,
            sizes=sizes,
            systems=systems,
            flagged=tuple(owners["flagged"]),
            before=guest.artifact,
            after=staged.made.artifact,
        )
    if strangers:
        raise VirtrootError(
            f"what is kept belongs to nobody in {guest.name}, and would be another's: {', '.join(strangers)}",
            "give it an owner in the guest, or take it out of what is kept",
        )
    return move


def _reader(guest: Guest, root: str) -> Read:
    def read(path: str) -> bytes | None:
        try:
            return beside.read(guest.target, root, path, _LARGEST)
        except VirtrootError:
            return None

    return read


def carry(guest: Guest, staged: Staged, move: Move) -> None:
    """Give the root that was made for it what is the guest's own, which stays where it is, too."""
    with step("carrying over what is the guest's own"):
        beside.carry(
            guest.target, guest.root, staged.root, upgrade_plan.carried(move, staged.base, move.ours, staged.theirs)
        )
        identity.name_files(guest.target, staged.root, staged.manifest)


def put_in_place(guest: Guest, staged: Staged, keep: Sequence[str], move: Move) -> None:
    """Give a guest that is off the root that was made for it, and keep the root that it had as a former one.

    ``keep`` are the paths that are kept at later upgrades, too. Raises `VirtrootError`, with the guest as it was, where
    the root is not what ``move`` says.
    """

    def prove(arrived: Survey) -> None:
        if wrong := list(proof.differences(move, staged.theirs, arrived)):
            more = ", …" if len(wrong) > _SHOWN else ""
            raise VirtrootError(
                f"the new root of {guest.name} is not as planned: {'; '.join(map(one_line, wrong[:_SHOWN]))}{more}",
                "the guest stays on its root; this is a defect of virtroot: report it with this message",
            )

    paths = staged.paths
    beside.put_file(guest.target, place.kept(paths.partial_boot), json.dumps(list(keep)).encode(), 0o600)
    with step("changing the root"):
        _arrive(guest, paths, staged.directory, previous_roots.following(guest), staged.made, staged.manifest, prove)


def tell(name: str, move: Move) -> None:
    """Tell what of a guest that moved is not as it was, and that nobody was asked about."""
    for command, why in move.to_run[:_MOST_COMMANDS]:
        say(f"to run in {name}: {one_line(command)}, since {why}")
    if len(move.to_run) > _MOST_COMMANDS:
        warn(f"{len(move.to_run) - _MOST_COMMANDS} more commands are to be run in {name}, and are not shown")
    for what, found in (
        (f"on hold in {name}, and another version now", list(move.held)),
        ("immutable or append-only before, and not any more", [f"/{path}" for path in move.flagged]),
        (f"as packages bring it again, and not as {name} had it", [f"/{each.name}" for each in move.reverted]),
    ):
        if found:
            more = ", …" if len(found) > _SHOWN else ""
            warn(f"{what}: {', '.join(map(one_line, found[:_SHOWN]))}{more}")


def put_back(guest: Guest, former: Former) -> None:
    """Let the root of a guest that is off, and a former one, change places."""
    target, paths, root = guest.target, place.of_root(guest.root), f"{former.directory}/root"
    with step("going back"):
        if former.made.lower:
            beside.mount(target, root, former.made.golden, former.made.lower)
        try:
            _describe_boot(guest, former, paths)
            mounts.delete(target, f"{former.directory}/next")
            _arrive(guest, paths, former.directory, former.directory, former.made, _manifest(guest, former.about))
        except BaseException:
            if former.made.lower:
                # What is mounted in a former root keeps everybody from deleting it.
                with contextlib.suppress(VirtrootError):
                    beside.unmount(target, root)
            raise


def _describe_boot(guest: Guest, former: Former, paths: Place) -> None:
    """Begin a boot directory for a former root with what is known of that, and what is kept of this guest."""
    guest.target.run(["mkdir", "--parents", "--mode=0711", paths.partial_boot])
    script = 'if [ -f "$1" ]; then cp -- "$1" "$2/"; fi'
    for path in (place.manifest(former.about), place.pristine(former.about), place.kept(guest.boot)):
        guest.target.run(["sh", "-ec", f"umask 077; {script}", "copy", path, paths.partial_boot])


def _arrive(
    guest: Guest,
    paths: Place,
    directory: str,
    final: str,
    now: Made,
    manifest: Manifest,
    prove: Callable[[Survey], None] | None = None,
) -> None:
    """Switch the guest to the root in ``directory``; see `switching.switch`.

    ``prove`` raises for a root that is not what the guest is to get.
    """
    target = guest.target
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {guest.name} was removed meanwhile", "./inv list shows the guests")
    at = shares.points_if_told(target, guest.root)
    try:
        shares.follow(target, f"{directory}/root", guest.shares, at, usr=guest.usr)
    except VirtrootError as error:
        # Whatever a guest made of its fstab is no reason to stay on a root that may be worse.
        warn(f"{guest.name} may not mount what it shares: {error.what}")
    beside.hand_over(target, f"{directory}/root", paths.partial_boot, now.kernel, now.initrd)
    # It is as old as it was.
    target.run(["touch", "--reference", place.manifest(guest.boot), "--", place.manifest(paths.partial_boot)])
    baselines.keep_arrived(target, f"{directory}/root", manifest, paths.partial_boot)
    if prove is not None:
        prove(baselines.parse(target.run(["cat", place.arrived(paths.partial_boot)]).stdout))
    swap.describe(target, f"{directory}/next", made(definition), guest.boot)
    remade(definition, guest.boot, now)
    virtiofsd_wrapper.update(definition, beside.kernel_release(target, paths.partial_boot))
    virtiofsd_wrapper.install(target, definition)
    swap.switch(guest, paths, directory, final, definition, now)
