"""Operate: start, stop, enter and remove guests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, publication, snapshots, standard_input, streaming
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import output
from pipelines.pool import place, pool
from pipelines.pool.place import Place
from pipelines.settings import Settings


def start(name: str, settings: Settings) -> float:
    """Boot the guest and return the seconds until its agent answered."""
    with hold.hold(connect(settings), name) as guest:
        if guest.running:
            raise VirtrootError(f"the guest {name} is running already", f"./inv console {name} shows it")
        return publication.start(guest, settings.timeout)


def stop(name: str, settings: Settings, *, force: bool = False) -> float:
    """Shut the guest down and return the seconds that took; with ``force`` at once and without asking it."""
    # Whatever is left of other tasks is no reason against it.
    with hold.hold(connect(settings), name, tidy=False) as guest:
        return _running(guest).stop(settings.timeout, force=force)


def restart(name: str, settings: Settings, *, force: bool = False) -> float:
    """Stop the guest where it runs, and boot it with the kernel that its root has now; return the seconds that took."""
    begin = time.monotonic()
    with hold.hold(connect(settings), name) as guest:
        hostdir.refuse_gone(guest)
        if guest.running:
            guest.stop(settings.timeout, force=force)
        publication.start(guest, settings.timeout)
    return time.monotonic() - begin


def running(name: str, settings: Settings) -> bool:
    """Say whether the guest is anything but shut off."""
    return guests.find(connect(settings), name).running


def wait(name: str, settings: Settings) -> float:
    """Wait until the agent of the running guest answers; return the seconds that took."""
    guest = _running(guests.find(connect(settings), name))
    # An agent that is in memory answers though the guest can read no file any more.
    guest.refuse_unserved()
    return guest.wait(settings.timeout)


def execute(name: str, argv: Sequence[str], settings: Settings) -> int:
    """Run ``argv`` in the guest through its agent, its input and output passed on as they come; return its exit status.

    A terminal as standard input is not read: it stays the user's.
    """
    if not argv:
        raise VirtrootError("no command given", f"write it after two dashes: ./inv exec {name} -- uname -r")
    stdin = standard_input.find_descriptor(sys.stdin)
    guest = _running(guests.find(connect(settings), name))
    with guest.answering():
        return streaming.run(guest.agent, argv, output(sys.stdout), output(sys.stderr), stdin=stdin)


def refresh(name: str, settings: Settings) -> None:
    """Let the running guest forget what it has read, so that it sees what the host edited."""
    guest = _running(guests.find(connect(settings), name))
    with guest.answering():
        done = guest.agent.run(["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])
    if done.returncode:
        raise VirtrootError(f"{name} did not drop its caches: {done.complaint}", f"start it anew: ./inv restart {name}")


def console(name: str, settings: Settings) -> int:
    """Join this terminal to the guest's console until Ctrl-]."""
    guest = _running(guests.find(connect(settings), name))
    return guest.hypervisor.console(guest.uuid)


def remove(name: str, settings: Settings, asking: Callable[[str], bool] | None) -> None:
    """Undefine a guest that is shut off, and delete its root, its copy of the kernel and its console's log.

    ``asking`` puts a question to the user; without it nothing is asked. What stands in the way is looked for before the
    question, and again after it: the answer may take hours.
    """
    hypervisor = connect(settings)
    if not hypervisor.defined(name) and _cleared(hypervisor, place.checked_name(name), settings):
        return
    guest = guests.find(hypervisor, name)
    publication.refuse_busy(guest)
    taken = snapshots.every(guest)
    others = f", and its {len(taken)} snapshots" if taken else ""
    if asking and not asking(f"Delete the guest {name} and everything in {guest.root}{others}?"):
        raise VirtrootError(f"the guest {name} was not removed", "answer yes, or give --yes")
    with hold.hold(hypervisor, name) as found:
        if found.uuid != guest.uuid:
            raise VirtrootError(f"{name} is another guest now", f"look at it: ./inv info {name}")
        publication.withdraw(found)


def _cleared(hypervisor: Hypervisor, name: str, settings: Settings) -> bool:
    """Clear what a killed removal or installation left of a guest that is not there; say whether there was anything."""
    directory = pool.look(hypervisor, settings)
    if directory is None or not publication.left(hypervisor, paths := Place(directory, name)):
        return False
    with hold.new(hypervisor, paths):
        publication.clear(hypervisor, paths)
    return True


def _running(guest: Guest) -> Guest:
    if not guest.running:
        raise VirtrootError(f"the guest {guest.name} is not running", f"start it first: ./inv start {guest.name}")
    return guest
