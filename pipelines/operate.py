"""Operate: start, stop, look at and remove guests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.domain import console_log
from pipelines.guest.guest import Guest
from pipelines.host.process import Completed
from pipelines.libvirt import hypervisor as hypervisors
from pipelines.settings import Settings


def find(name: str, settings: Settings) -> Guest:
    """Return the guest ``name``."""
    return guests.find(hypervisors.connect(settings), name)


def start(name: str, settings: Settings) -> float:
    """Boot the guest and return the seconds until its agent answered."""
    with Store(settings.output_dir).lock("guest", hypervisors.checked_name(name)):
        guest = find(name, settings)
        if guest.running:
            raise VirtrootError(f"the guest {name} is running already", f"./inv console --name {name} shows it")
        return guest.start(settings.timeout)


def stop(name: str, settings: Settings, *, force: bool = False) -> float:
    """Shut the guest down and return the seconds that took; with ``force`` at once and without asking it."""
    with Store(settings.output_dir).lock("guest", hypervisors.checked_name(name)):
        return _running(name, settings).stop(settings.timeout, force=force)


def execute(name: str, argv: Sequence[str], settings: Settings) -> Completed:
    """Run ``argv`` in the guest through its agent."""
    if not argv:
        raise VirtrootError("no command given", f"write it after two dashes: ./inv exec --name {name} -- uname -r")
    return _running(name, settings).agent.run(argv)


def console(name: str, settings: Settings) -> int:
    """Join this terminal to the guest's console until Ctrl-]."""
    guest = _running(name, settings)
    return guest.hypervisor.console(guest.name)


def listing(settings: Settings) -> list[dict[str, Any]]:
    """Return what there is to know of each guest, as plain data."""
    hypervisor = hypervisors.connect(settings)
    return [
        {
            "name": guest.name,
            "state": hypervisor.state(guest.name),
            "artifact": guest.artifact,
            "root": guest.root,
            "uuid": guest.uuid,
            "where": "embedded" if hypervisor.embedded else hypervisor.uri,
        }
        for guest in guests.every(hypervisor)
    ]


def remove(name: str, settings: Settings, asking: Callable[[str], bool] | None) -> None:
    """Undefine a guest that is shut off, and delete its root, its copy of the kernel and its console's log.

    ``asking`` puts a question to the user; without it nothing is asked.
    """
    with Store(settings.output_dir).lock("guest", hypervisors.checked_name(name)):
        guest = find(name, settings)
        if guest.running:
            raise VirtrootError(f"the guest {name} is running", f"stop it first: ./inv stop --name {name}")
        if asking and not asking(f"Delete the guest {name} and everything in {guest.root}?"):
            raise VirtrootError(f"the guest {name} was not removed", "answer yes, or give --yes")
        # The root goes first and under another name: a removal that is killed leaves a guest that remove still finds,
        # and nothing half-deleted under a root's name.
        doomed = f"{guest.root.rpartition('/')[0]}/.root.{name}.partial"
        target = guest.hypervisor.target
        target.run(
            ["sh", "-ec", 'if [ -e "$1" ]; then rm -rf "$2"; mv -T -- "$1" "$2"; fi', "take", guest.root, doomed]
        )
        target.run(["rm", "-rf", "--one-file-system", "--", doomed, guest.boot, console_log(name)])
        guest.hypervisor.virsh("undefine", name)


def _running(name: str, settings: Settings) -> Guest:
    guest = find(name, settings)
    if not guest.running:
        raise VirtrootError(f"the guest {name} is not running", f"start it first: ./inv start --name {name}")
    return guest
