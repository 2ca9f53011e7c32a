"""Gives a guest another root: root, boot directory and domain change together, or nothing changes.

The new root lies in a directory of the pool, as ``root``. Next to it, ``coming`` describes it, ``next`` describes the
root that the guest has now, and ``domain.xml`` is the guest's definition with the new root. Afterwards the old root
lies there, and ``about`` describes it. A description is a directory with `RootSource` as JSON in ``made``, the manifest
and the baseline.

The module `swap` of the payload makes the change, and completes one that was interrupted.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import root_source, virtiofsd_wrapper
from pipelines.guest.guest import Guest
from pipelines.guest.root_source import RootSource
from pipelines.host import process
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import DEFINITIONS
from pipelines.pool import mount_units, place
from pipelines.pool.place import Place
from pipelines.target import durable, programs, transactions
from pipelines.target.target import Target

_DESCRIBE = """
umask 077
mkdir -- "$1"
cat > "$1/made"
for each in "$2" "$3"; do [ ! -f "$each" ] || cp -- "$each" "$1/"; done
"""


def describe(target: Target, directory: str, source: RootSource, boot: str) -> None:
    """Make the directory ``directory`` that describes a root; the boot directory ``boot`` has its manifest."""
    argv = ["sh", "-ec", _DESCRIBE, "describe", directory, place.manifest(boot), place.baseline(boot)]
    target.run(argv, stdin=source.to_json().encode())


def read_description(target: Target, directory: str) -> RootSource:
    """Return what ``directory`` says of a root; raises `VirtrootError` if it is damaged."""
    try:
        return root_source.from_data(json.loads(target.run(["cat", f"{directory}/made"]).stdout))
    except (ValueError, TypeError, KeyError) as error:
        raise VirtrootError(f"{directory}/made is damaged", "delete the previous root that it describes") from error


def swap_roots(guest: Guest, paths: Place, directory: str, final: str, definition: ET.Element, now: RootSource) -> None:
    """Give a guest that is off the root in ``directory``, and rename that directory to ``final``; or change nothing.

    The partial boot directory of ``paths`` becomes the guest's. The caller holds the guest's lock. Raises
    `VirtrootError`, with nothing changed, if the guest runs or libvirt does not accept the definition.
    """
    target = guest.target
    durable.put(target, f"{directory}/coming", now.to_json().encode(), 0o600)
    durable.put(target, f"{directory}/domain.xml", ET.tostring(definition), 0o600)
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} was started meanwhile", f"stop it: ./inv stop {guest.name}")
    with process.defer_interrupt():
        for root in filter(None, (guest.source.lower and guest.root, now.lower and f"{directory}/root")):
            # What is mounted cannot be renamed.
            programs.unmount_layers(target, root)
        begun = transactions.begin_swap(
            target, paths.swap_journal, directory, final, guest.root, guest.boot, paths.partial_boot
        )
        _check(guest, begun)
        try:
            if guest.source.lower:
                # If the machine goes down now, systemd must not mount the new root over the old root's base tree.
                mount_units.disable(target, guest.root)
            _finish(guest, may_exchange=True)
        except BaseException:
            # The guest can have either root by now.
            with suppress(VirtrootError):
                _enable_mount_unit(guests.get(guest.hypervisor, guest.name))
            raise
    if now.lower:
        programs.mount_layers(target, guest.root, now.golden, now.lower)
        mount_units.enable(target, guest.root, now.golden)


def finish(guest: Guest) -> bool:
    """Complete a swap that was interrupted, or give up one that had not begun; say whether there was one.

    Raises `VirtrootError` if libvirt does not accept the definition, or if the roots cannot be told apart.
    """
    found = _find_pending(guest)
    if found is None:
        return False
    _update_definition(guest, found)
    _finish(guest, may_exchange=False)
    _enable_mount_unit(guests.get(guest.hypervisor, guest.name))
    return True


def _find_pending(guest: Guest) -> dict[str, Any] | None:
    return transactions.find_pending_swap(guest.target, place.of_root(guest.root).swap_journal)


def _update_definition(guest: Guest, found: Mapping[str, Any]) -> None:
    """Make the definition for libvirt again, from the current one.

    The saved one is as old as the swap. Changes that were made to the domain since would be lost with it.
    """
    target = guest.target
    definition = None if found["coming"] is None else guest.hypervisor.xml(guest.uuid)
    if definition is not None:
        root_source.write(definition, guest.boot, root_source.from_data(found["coming"]))
        release = programs.read_kernel_release(target, found["boot"] or guest.boot)
        virtiofsd_wrapper.update(definition, release)
        virtiofsd_wrapper.install(target, definition)
        durable.put(target, f"{found['directory']}/domain.xml", ET.tostring(definition), 0o600)


def _enable_mount_unit(guest: Guest) -> None:
    if guest.source.lower:
        mount_units.enable(guest.target, guest.root, guest.source.golden)


def _finish(guest: Guest, *, may_exchange: bool) -> None:
    journal, virsh = place.of_root(guest.root).swap_journal, guest.hypervisor.virsh_argv()
    done = transactions.finish_swap(guest.target, journal, DEFINITIONS, guest.uuid, virsh, may_exchange=may_exchange)
    _check(guest, done)


def _check(guest: Guest, done: Completed) -> None:
    if done.returncode:
        raise VirtrootError(
            f"{guest.name} keeps the root that it has", "read the reason above, and try again", done.complaint
        )
