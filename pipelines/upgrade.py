"""Upgrade: a guest moves to another root and takes along what is its own; and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipelines import verify
from pipelines.artifact import manifest as manifests
from pipelines.artifact import naming
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.guest import formers, making, moving, place, pristine, publication, roots, shares, switching
from pipelines.guest import guest as guests
from pipelines.guest.changes import Changed
from pipelines.guest.domain import Made, made, remade
from pipelines.guest.formers import Former
from pipelines.guest.guest import Guest
from pipelines.guest.merging import Read
from pipelines.guest.moving import Choices, Move
from pipelines.guest.pristine import Survey
from pipelines.host import lines, mounts
from pipelines.libvirt import beside
from pipelines.libvirt.connect import connect
from pipelines.log import say, step, warn
from pipelines.settings import Settings
from pipelines.text import one_line, size

#: Of a file in /etc that both sides changed, no more bytes are merged.
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Wishes:
    """What is asked of an upgrade: the user's ``choices``, one of `roots.WAYS`; the rest are options of the task."""

    choices: Choices = field(default_factory=Choices)
    clone: str = "auto"
    restart: bool = False
    again: bool = False


@dataclass(frozen=True)
class Staged:
    """Another root for a guest, as it was made, and all that a plan is made of."""

    directory: str
    manifest: Manifest
    made: Made
    base: Survey
    theirs: Survey

    @property
    def root(self) -> str:
        """The root."""
        return f"{self.directory}/root"


def artifact(name: str, to: str, settings: Settings) -> Artifact:
    """Return what a guest is to be put on: what ``to`` names, or else the golden root of its recipe, or the latest."""
    if to and Path(to).is_dir() and "/" in to:
        return Artifact(Path(to).resolve())
    output = settings.output_dir
    recipe = _manifest(guests.find(connect(settings), name)).name
    if to:
        return naming.resolve(output, to, recipe)
    golden = Store(output).golden(recipe).artifact
    return golden or naming.resolve(output, "latest", recipe)


def wishes(
    take: Sequence[str], keep: Sequence[str], discard: Sequence[str], *, clone: str, restart: bool, again: bool
) -> Wishes:
    """Validate what was given on the command line; raises `VirtrootError`."""
    taken: dict[str, Literal["old", "new"]] = {}
    for each in take:
        which, _, path = each.partition(":")
        if which not in ("old", "new") or not path.startswith("/etc/"):
            raise VirtrootError(f"--take {each}", "write --take old /etc/PATH or --take new /etc/PATH")
        taken[path.strip("/")] = "old" if which == "old" else "new"
    for each in keep:
        if not each.startswith("/"):
            raise VirtrootError(f"--keep {each}: that is no path in the guest", "begin it with a slash")
    choices = Choices(tuple(path.strip("/") for path in keep), tuple(path.strip("/") for path in discard), taken)
    return Wishes(choices, roots.checked_way(clone), restart, again)


def preview(name: str, artifact: Artifact, wishes: Wishes, settings: Settings) -> Move:
    """Return what an upgrade would do; nothing of the guest changes, and it may run."""
    with _held(name, settings) as guest:
        _refuse(guest, artifact, wishes)
        wishes = _remembered(guest, artifact, wishes)
        paths = place.of_root(guest.root)
        with _staged(guest, paths, artifact, wishes, settings) as staged:
            return _planned(guest, staged, wishes.choices)


def upgrade(name: str, artifact: Artifact, wishes: Wishes, settings: Settings) -> Move:
    """Put a guest on ``artifact``, with all that is its own, and keep its former root; return what was done.

    A guest that runs is refused without ``restart``; with it, it is shut down for the move, booted and verified, and
    goes back to its former root where it does not come up or a check fails, which is raised then. Raises
    `VirtrootError`, with nothing changed, where something is left to decide.
    """
    with _held(name, settings) as guest:
        _refuse(guest, artifact, wishes)
        again = guest.running
        if again and not wishes.restart:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop {name}; or give --restart")
        wishes = _remembered(guest, artifact, wishes)
        paths = place.of_root(guest.root)
        with _staged(guest, paths, artifact, wishes, settings) as staged:
            _refuse_open(_planned(guest, staged, wishes.choices), name)
            if again:
                say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
            try:
                # What it wrote last counts.
                move = _planned(guest, staged, wishes.choices)
                _refuse_open(move, name)
                _carry(guest, staged, move)
                _switch(guest, paths, staged, wishes.choices.keep)
            except BaseException:
                if again:
                    say(f"{name} is up after {publication.start(guest, settings.timeout):.1f} s, as it was")
                raise
        formers.forget(guests.find(guest.hypervisor, name))
    if again:
        _prove(name, artifact, settings)
    return move


def rollback(name: str, settings: Settings, *, restart: bool = False) -> Former:
    """Put a guest back on the root that it had before its last upgrade; return what that was.

    The root that it leaves becomes its former one.
    """
    with _held(name, settings) as guest:
        again = guest.running
        if again and not restart:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop {name}; or give --restart")
        former = next(reversed(formers.every(guest)), None)
        if former is None:
            raise VirtrootError(f"{name} has no former root", "there is one after an ./inv upgrade, until ./inv prune")
        if again:
            say(f"{name} is off after {guest.stop(settings.timeout):.1f} s")
        _back(guest, former)
        if again:
            back = guests.find(guest.hypervisor, name)
            say(f"{name} is up after {publication.start(back, settings.timeout):.1f} s")
        return former


@contextmanager
def _held(name: str, settings: Settings) -> Iterator[Guest]:
    """Hold the lock of a guest, in whose place nothing is half done."""
    hypervisor = connect(settings)
    guests.find(hypervisor, name)
    if not hypervisor.embedded and os.geteuid() != 0:
        raise VirtrootError("a root's files belong to many users, so copying it needs root", "run this with sudo")
    with guests.locked(hypervisor, name):
        publication.tidy(guests.find(hypervisor, name))
        guest = guests.find(hypervisor, name)
        guest.refuse_shared_root()
        guest.refuse_mounts()
        guest.assemble()
        yield guest


def _remembered(guest: Guest, artifact: Artifact, wishes: Wishes) -> Wishes:
    """Add what the recipe says is kept, and what was kept at earlier upgrades."""
    noted = guest.target.run(["cat", place.kept(guest.boot)], check=False).stdout.decode(errors="surrogateescape")
    recorded = [path.strip("/") for path in artifact.manifest.recipe.guest.keep]
    keep = tuple(dict.fromkeys([*recorded, *noted.splitlines(), *wishes.choices.keep]))
    return replace(wishes, choices=replace(wishes.choices, keep=keep))


def _refuse(guest: Guest, artifact: Artifact, wishes: Wishes) -> None:
    distros = _manifest(guest).recipe.distro, artifact.manifest.recipe.distro
    if distros[0] != distros[1]:
        raise VirtrootError(
            f"{guest.name} is {distros[0]}, and {artifact.id} is {distros[1]}", "install a new guest of that"
        )
    releases = _manifest(guest).recipe.release, artifact.manifest.recipe.release
    if releases[0] != releases[1]:
        warn(f"{guest.name} moves from {releases[0]} to {releases[1]}: read what {releases[1]} says of upgrades first")
    if artifact.id in formers.refused(guest) and not wishes.again:
        raise VirtrootError(f"{guest.name} did not come up with {artifact.id} before", "to try it again, give --again")


def _manifest(guest: Guest) -> Manifest:
    content = guest.target.run(["cat", place.manifest(guest.boot)]).stdout
    return manifests.parse(content, f"the manifest of {guest.name}")


@contextmanager
def _staged(
    guest: Guest, paths: place.Place, artifact: Artifact, wishes: Wishes, settings: Settings
) -> Iterator[Staged]:
    """Make another root for a guest under a hidden name; what is still there in the end is deleted."""
    target, manifest, directory = guest.target, artifact.manifest, paths.staged
    way = roots.way(target, paths.pool, "overlay" if guest.lower and wishes.clone == "auto" else wishes.clone)
    try:
        with ExitStack() as held:
            target.run(["mkdir", "--mode=0700", "--", directory])
            tree = held.enter_context(making.root(guest.hypervisor, paths.pool, artifact, way, f"{directory}/root"))
            pristine.keep(target, f"{directory}/root", manifest, paths.partial_boot, tree)
            theirs = pristine.parse(target.run(["cat", place.pristine(paths.partial_boot)]).stdout)
            base = pristine.of(guest, _manifest(guest), Store(settings.output_dir).find(guest.artifact))
            boot = manifest.boot
            layered = tree.digest if tree and way == "overlay" else ""
            now = Made(artifact.id, boot.kernel, boot.initrd, boot.cmdline, tree.path if tree else "", layered)
            beside.put_file(target, place.manifest(paths.partial_boot), artifact.manifest_bytes(), 0o644)
            yield Staged(directory, manifest, now, base, theirs)
    finally:
        # The reason why it failed is what the user has to see; the next task clears what stays now.
        with contextlib.suppress(VirtrootError):
            publication.tidy(guest)


def _planned(guest: Guest, staged: Staged, choices: Choices) -> Move:
    target = guest.target
    with step("comparing"):
        ours = pristine.now(target, guest.root, _manifest(guest), staged.base)
        points = shares.points(target, guest.root).values()
        read = (_reader(guest, guest.root), _reader(guest, staged.root))
        distro = staged.manifest.recipe.distro
        move = moving.plan(staged.base, ours, staged.theirs, distro, choices, read, lines.merged, points)
        own = [path for path in move.kept if not moving.foreign(path)]
        strangers = moving.strangers(move, ours, beside.numbers(target, guest.root, own))
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


def _refuse_open(move: Move, name: str) -> None:
    if not move.open:
        return
    undecided = [f"/{each.path} ({each.why})" for each in move.conflicts]
    undecided += [f"/{each.name}" for each in move.undecided]
    undecided += [f"the package {each}" for each in move.lost]
    raise VirtrootError(
        f"{len(undecided)} things of {name} are for you to decide: {', '.join(undecided[:5])}"
        f"{', …' if len(undecided) > 5 else ''}",
        f"./inv upgrade {name} --preview shows all; then --take old PATH or --take new PATH for /etc, --keep PATH or "
        "--discard PATH (or PACKAGE) for the rest",
    )


def _carry(guest: Guest, staged: Staged, move: Move) -> None:
    target = guest.target
    with step("carrying over what is the guest's own"):
        ours = pristine.now(target, guest.root, _manifest(guest), staged.base)
        beside.carry(target, guest.root, staged.root, moving.carried(move, ours, staged.theirs))


def _switch(guest: Guest, paths: place.Place, staged: Staged, keep: Sequence[str]) -> None:
    target = guest.target
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {guest.name} was removed meanwhile", "./inv list shows the guests")
    with step("changing the root"):
        beside.hand_over(target, staged.root, paths.partial_boot, staged.made.kernel, staged.made.initrd)
        if keep:
            noted = "".join(f"{path}\n" for path in keep).encode(errors="surrogateescape")
            beside.put_file(target, place.kept(paths.partial_boot), noted, 0o600)
        switching.describe(target, f"{staged.directory}/next", made(definition), guest.boot)
        remade(definition, guest.boot, staged.made)
        when = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        switching.switch(guest, paths, staged.directory, f"{paths.formers}/{when}", definition, staged.made)


def _back(guest: Guest, former: Former) -> None:
    """Let the guest, which is off, and its former root change places."""
    target, paths = guest.target, place.of_root(guest.root)
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {guest.name} was removed meanwhile", "./inv list shows the guests")
    root, now = f"{former.directory}/root", former.made
    with step("going back"):
        if now.lower:
            beside.mount(target, root, now.golden, now.lower)
        beside.hand_over(target, root, paths.partial_boot, now.kernel, now.initrd)
        about = f"{former.directory}/about"
        for path in (place.manifest(about), place.pristine(about), place.kept(guest.boot)):
            script = 'if [ -f "$1" ]; then cp --preserve=mode -- "$1" "$2/"; fi'
            target.run(["sh", "-ec", script, "copy", path, paths.partial_boot])
        mounts.delete(target, f"{former.directory}/next")
        switching.describe(target, f"{former.directory}/next", made(definition), guest.boot)
        remade(definition, guest.boot, now)
        switching.switch(guest, paths, former.directory, former.directory, definition, now)


def _prove(name: str, artifact: Artifact, settings: Settings) -> None:
    """Boot and verify an upgraded guest; where that fails it goes back to its former root, and that is raised."""
    try:
        with _held(name, settings) as guest:
            say(f"{name} is up after {publication.start(guest, settings.timeout):.1f} s")
        verify.verify_guest(name, settings, boot=True)
    except VirtrootError as error:
        warn(f"{name} goes back to its former root: {error.what}")
        with _held(name, settings) as guest:
            formers.refuse(guest, artifact.id)
            if guest.running:
                guest.stop(settings.timeout, force=True)
            _back(guest, formers.every(guest)[-1])
            back = guests.find(guest.hypervisor, name)
            say(f"{name} is up after {publication.start(back, settings.timeout):.1f} s, as it was")
        raise


#: So many lines of each part are shown where not all are asked for: together a screen.
_SHOWN = 8


def as_lines(move: Move, *, everything: bool = False) -> Iterator[str]:
    """Yield what an upgrade does as people read it; without ``everything`` the first lines of each part."""
    groups: dict[str, list[str]] = {
        "to decide": [
            *(f"/{one_line(each.path)}  {each.why}: --take old or --take new" for each in move.conflicts),
            *(f"{_words(each)}: --keep or --discard" for each in move.undecided),
            *(f"package {one_line(each)}, which the new root does not have: --discard" for each in move.lost),
        ]
    }
    for kind, changes in move.packages:
        groups[f"packages {kind}"] = [
            f"{one_line(each.name)} {' -> '.join(filter(None, (one_line(each.before), one_line(each.after))))}"
            for each in changes
        ]
    for verdict, title in (("ours", "the guest's stays"), ("theirs", "the new root's"), ("merged", "lines of both")):
        groups[f"/etc: {title}"] = [
            f"/{one_line(each.path)}  {each.why}" for each in move.etc if each.verdict == verdict
        ]
    groups["kept"] = [f"/{one_line(path)}" for path in move.kept]
    groups["left behind"] = [_words(each) for each in move.dropped]
    for title, found in groups.items():
        if not found:
            continue
        yield f"{title} ({len(found)})"
        shown = found if everything or title == "to decide" else found[:_SHOWN]
        yield from (f"  {line}" for line in shown)
        if len(shown) < len(found):
            yield f"  … and {len(found) - len(shown)} more: --all"


def _words(each: Changed) -> str:
    many = "" if each.entries is None else f", {each.entries} entries"
    return f"/{one_line(each.name)}{'' if each.size is None else f'  {size(each.size)}'}{many}"


def as_data(move: Move) -> dict[str, Any]:
    """Return what an upgrade does as plain data."""
    return {
        "packages": move.packages.model_dump(),
        "etc": [{"path": each.path, "verdict": each.verdict, "why": each.why} for each in move.etc],
        "kept": list(move.kept),
        "dropped": [vars(each) for each in move.dropped],
        "undecided": [vars(each) for each in move.undecided],
        "lost": list(move.lost),
    }
