"""Clone: another guest with the root that a guest has now, and an identity of its own."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from uuid import uuid4

from pipelines.artifact import manifest as manifests
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, identity, publication, virtiofsd_wrapper
from pipelines.guest.domain import renamed
from pipelines.guest.guest import Guest
from pipelines.guest.identity import Identity
from pipelines.libvirt import beside
from pipelines.libvirt.connect import connect
from pipelines.log import say, step, warn
from pipelines.merge import baselines
from pipelines.pool import clone_methods, place
from pipelines.pool.place import Place
from pipelines.recipe import machine_specific
from pipelines.settings import Settings


def clone_guest(source: str, name: str, how: str, settings: Settings, *, hostname: str = "") -> Guest:
    """Make the guest ``name`` of ``source``, which is off; ``how`` is one of `roots.WAYS` but ``overlay``.

    Raises `VirtrootError`, with nothing left of the new guest, for a source that runs or is more than its root, and
    where the pool's file system cannot do what is asked.
    """
    name = place.checked_name(name)
    label = identity.checked_hostname(hostname or name.replace(".", "-").replace("_", "-"))
    if clone_methods.checked_way(how) == "overlay":
        raise VirtrootError(
            "--clone overlay: only a golden tree can be below a layer, since a guest changes its root",
            f"use --clone auto, or install {name} of the artifact of {source} with --clone overlay",
        )
    hypervisor = connect(settings)
    if not hypervisor.embedded and os.geteuid() != 0:
        raise VirtrootError("a root's files belong to many users, so copying it needs root", "run this with sudo")
    with hold.hold(hypervisor, source, off=f"stop it first: ./inv stop {source}") as original:
        definition = _definition(original)
        paths = Place(place.of_root(original.root).pool, name)
        if paths.root == original.root:
            raise VirtrootError(f"{paths.root} is the root of {source}", "choose another name for the clone")
        with hold.new(hypervisor, paths):
            publication.refuse_taken(hypervisor, paths)
            publication.clear(hypervisor, paths)
            try:
                _copy(original, paths, how)
                _personalise(original, paths, definition, Identity(label, uuid4()))
                publication.publish(hypervisor, paths, ET.tostring(definition, encoding="unicode"))
            except BaseException:
                # The reason why it failed is what the user has to see; the next clone clears what stays now.
                with contextlib.suppress(VirtrootError):
                    publication.clear(hypervisor, paths)
                raise
            made = guests.find(hypervisor, name)
    for each in made.shares:
        if not each.readonly:
            warn(f"{source} shares {each.directory} too: file locks do not reach from one guest to another")
    return made


def _definition(original: Guest) -> ET.Element:
    """Return the definition of a guest that can be cloned."""
    original.refuse_mounts()
    definition = original.hypervisor.xml(original.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {original.name} was removed meanwhile", "./inv list shows the guests")
    for kind in ("disk", "hostdev", "tpm"):
        if definition.find(f"devices/{kind}") is not None:
            raise VirtrootError(
                f"{original.name} has a device of its own, <{kind}>, which two guests cannot have",
                f"take it away first: virsh edit {original.name}",
            )
    return definition


def _copy(original: Guest, paths: Place, how: str) -> None:
    target = original.target
    original.assemble()
    # Of two layers one is made: the golden tree's files are another file system's to the copy.
    asked = "copy" if original.lower and how == "auto" else how
    way = clone_methods.way(target, original.root if original.lower else paths.pool, asked, source=original.root)
    with step(f"making the root: {clone_methods.WORDS[way]} of that of {original.name}"):
        clone_methods.make(target, way, original.root, paths.partial_root, nested=True)
    if original.running:
        raise VirtrootError(f"{original.name} was started while it was copied", "stop it, then clone it again")


def _personalise(original: Guest, paths: Place, definition: ET.Element, own: Identity) -> None:
    target, root = original.target, paths.partial_root
    with step("identity, kernel"):
        kept = target.run(["cat", place.manifest(original.boot)], check=False)
        manifest = None if kept.returncode else manifests.parse(kept.stdout, f"the manifest of {original.name}")
        identity.forget(target, root, original.name, paths.name, manifest.overlay_keys if manifest else ())
        was = identity.hostname(target, root)
        identity.rewrite(target, root, own)
        beside.hand_over(target, root, paths.partial_boot, original.kernel, original.initrd)
        beside.put_file(target, place.manifest(paths.partial_boot), kept.stdout, 0o600)
        if was and manifest:
            identity.name_files(target, root, manifest, was, own.hostname)
        baselines.copy_baseline(target, original.boot, paths.partial_boot)
        script = 'if [ -f "$1" ]; then cp --preserve=mode -- "$1" "$2"; fi'
        target.run(["sh", "-ec", script, "kept", place.kept(original.boot), place.kept(paths.partial_boot)])
        renamed(definition, original.root, paths, own.uuid)
        virtiofsd_wrapper.update(definition, beside.kernel_release(target, paths.partial_boot))
        virtiofsd_wrapper.install(target, definition)
        if target.run(["test", "-f", f"{root}/{machine_specific.KEYGEN}"], check=False).returncode:
            warn(f"{paths.name} has no ssh host keys and makes none by itself: run ssh-keygen -A in it")


@task(
    name="clone",
    positional=["name", "to"],
    help={
        "name": "the guest that is cloned, which has to be off",
        "to": "the new guest's name",
        "clone": "auto (the best there is), snapshot, reflink or copy",
        "hostname": "host name, when it is not the guest's name",
    },
)
def clone_task(
    c: Context,
    name: str,
    to: str,
    clone: str = "auto",
    hostname: str = "",
) -> None:
    """Make another guest with the root that a guest has now, and an identity of its own.

    ./inv clone web web2
    """
    made = clone_guest(name, to, clone, settings_of(c), hostname=hostname)
    say(f"cloned into {made.root}; boot it: ./inv start {to}")
