"""Clone a guest: make another guest with a copy of its root and an identity of its own."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from uuid import uuid4

from pipelines.artifact import manifest as manifests
from pipelines.cli.task import Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, identity, publication, virtiofsd_wrapper
from pipelines.guest.domain import rename_definition
from pipelines.guest.guest import Guest
from pipelines.guest.identity import Identity
from pipelines.log import say, step, warn
from pipelines.merge import baselines
from pipelines.pool import clone_methods, place
from pipelines.pool.place import Place
from pipelines.recipe import machine_specific
from pipelines.target import durable, programs


def clone_guest(source: str, name: str, method: str, ctx: CommandContext, *, hostname: str = "") -> Guest:
    """Make the guest ``name`` from ``source``, which is off; ``method`` is a clone method other than ``overlay``.

    Raises `VirtrootError`, and leaves nothing of the new guest, if the source is running, if it has devices that two
    guests cannot share, or if the pool's file system does not support the method.
    """
    name = place.check_name(name)
    label = identity.check_hostname(hostname or name.replace(".", "-").replace("_", "-"))
    if clone_methods.check_method(method) == "overlay":
        raise VirtrootError(
            "--clone overlay: only a base tree can be below a layer, since a guest changes its root",
            f"use --clone auto, or install {name} from the artifact of {source} with --clone overlay",
        )
    hypervisor = ctx.hypervisor
    hold.check_user(hypervisor)
    with hold.hold(hypervisor, source, off=f"run ./inv stop {source} first") as original:
        definition = _get_definition(original)
        paths = Place(place.of_root(original.root).pool, name)
        if paths.root == original.root:
            raise VirtrootError(f"{paths.root} is the root of {source}", "use another name for the clone")
        with hold.new(hypervisor, paths):
            publication.refuse_taken(hypervisor, paths)
            publication.clear(hypervisor, paths)
            try:
                _clone_root(original, paths, method)
                _write_identity(original, paths, definition, Identity(label, uuid4()))
                publication.publish(hypervisor, paths, ET.tostring(definition, encoding="unicode"))
            except BaseException:
                # An error of the clean-up would hide the error that the user has to see; the next clone cleans up.
                with contextlib.suppress(VirtrootError):
                    publication.clear(hypervisor, paths)
                raise
            made = guests.get(hypervisor, name)
    for each in made.shares:
        if not each.readonly:
            warn(f"{source} shares {each.directory}, too: file locks do not work between guests")
    return made


def _get_definition(original: Guest) -> ET.Element:
    """Return the definition of a guest; raises `VirtrootError` if it cannot be cloned."""
    original.refuse_mounts()
    definition = original.hypervisor.xml(original.uuid)
    if definition is None:
        raise VirtrootError(f"the guest {original.name} was removed meanwhile", "see ./inv list for the guests")
    for kind in ("disk", "hostdev", "tpm"):
        if definition.find(f"devices/{kind}") is not None:
            raise VirtrootError(
                f"{original.name} has the device <{kind}>, which two guests cannot share",
                f"remove it first: virsh edit {original.name}",
            )
    return definition


def _clone_root(original: Guest, paths: Place, method: str) -> None:
    target = original.target
    original.mount_layers()
    # Both layers are merged into one tree: the files of the base tree are on another file system for the copy.
    asked = "copy" if original.source.lower and method == "auto" else method
    chosen = clone_methods.choose_method(
        target, original.root if original.source.lower else paths.pool, asked, source=original.root
    )
    with step(f"making the root: {clone_methods.DESCRIPTIONS[chosen]} of the root of {original.name}"):
        clone_methods.clone(target, chosen, original.root, paths.partial_root, nested=True)
    if original.running:
        raise VirtrootError(f"{original.name} was started while it was copied", "stop it, then clone it again")


def _write_identity(original: Guest, paths: Place, definition: ET.Element, own: Identity) -> None:
    target, root = original.target, paths.partial_root
    with step("identity, kernel"):
        kept = target.run(["cat", place.manifest(original.boot)], check=False)
        manifest = None if kept.returncode else manifests.parse(kept.stdout, f"the manifest of {original.name}")
        identity.delete_secrets(target, root, original.name, paths.name, manifest.overlay_keys if manifest else ())
        was = identity.read_hostname(target, root)
        identity.update(target, root, own)
        programs.copy_kernel(target, root, paths.partial_boot, original.source.kernel, original.source.initrd)
        durable.put(target, place.manifest(paths.partial_boot), kept.stdout, 0o600)
        if was and manifest:
            identity.replace_build_name(target, root, manifest, was, own.hostname)
        baselines.copy_baseline(target, original.boot, paths.partial_boot)
        script = 'if [ -f "$1" ]; then cp --preserve=mode -- "$1" "$2"; fi'
        target.run(["sh", "-ec", script, "kept", place.keep_list(original.boot), place.keep_list(paths.partial_boot)])
        rename_definition(definition, original.root, paths, own.uuid)
        virtiofsd_wrapper.update(definition, programs.read_kernel_release(target, paths.partial_boot))
        virtiofsd_wrapper.install(target, definition)
        if target.run(["test", "-f", f"{root}/{machine_specific.KEYGEN}"], check=False).returncode:
            warn(f"{paths.name} has no ssh host keys and will not generate any: run ssh-keygen -A in it")


@task(
    name="clone",
    positional=["name", "to"],
    help={
        "name": "the guest to clone, which has to be off",
        "to": "the name of the new guest",
        "clone": "clone method: auto (the best that works), snapshot, reflink or copy",
        "hostname": "host name, if it differs from the guest's name",
    },
)
def clone_task(
    c: Context,
    name: str,
    to: str,
    clone: str = "auto",
    hostname: str = "",
) -> None:
    """Make another guest with a copy of a guest's root, and an identity of its own.

    ./inv clone web web2
    """
    made = clone_guest(name, to, clone, context_of(c), hostname=hostname)
    say(f"cloned to {made.root}; boot it: ./inv start {to}")
