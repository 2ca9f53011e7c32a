"""Start, stop and restart guests, and wait for them."""

from __future__ import annotations

import time

from pipelines.cli.task import GUEST, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, publication
from pipelines.libvirt.connect import connect
from pipelines.log import say
from pipelines.settings import Settings


def start(name: str, settings: Settings) -> float:
    """Boot the guest and return the seconds until its agent answered."""
    with hold.hold(connect(settings), name) as guest:
        if guest.running:
            raise VirtrootError(f"the guest {name} is already running", f"see ./inv console {name}")
        return publication.start(guest, settings.timeout)


def stop(name: str, settings: Settings, *, force: bool = False) -> float:
    """Shut the guest down and return the seconds that took; ``force`` ends it at once, without a shutdown."""
    # What killed tasks left must not prevent a stop.
    with hold.hold(connect(settings), name, tidy=False) as guest:
        guest.check_running()
        return guest.stop(settings.timeout, force=force)


def restart(name: str, settings: Settings, *, force: bool = False) -> float:
    """Stop the guest if it is running, and boot the kernel that its root has now; return the seconds that took."""
    begin = time.monotonic()
    with hold.hold(connect(settings), name) as guest:
        hostdir.refuse_gone(guest)
        if guest.running:
            guest.stop(settings.timeout, force=force)
        publication.start(guest, settings.timeout)
    return time.monotonic() - begin


def is_running(name: str, settings: Settings) -> bool:
    """Return whether the guest is in any state other than shut off."""
    return guests.get(connect(settings), name).running


def wait(name: str, settings: Settings) -> float:
    """Wait until the agent of the running guest answers; return the seconds that took."""
    guest = guests.get(connect(settings), name)
    guest.check_running()
    # An agent whose program is in memory answers even if the guest cannot read files any more.
    guest.refuse_unserved()
    return guest.wait(settings.timeout)


@task(name="start", help=GUEST)
def start_task(
    c: Context,
    name: str,
) -> None:
    """Boot a guest and wait until it is up.

    ./inv start web
    """
    say(f"{name} is up after {start(name, settings_of(c)):.1f} s")


@task(name="stop", help={**GUEST, "force": "end it at once, like pulling the plug"})
def stop_task(
    c: Context,
    name: str,
    force: bool = False,
) -> None:
    """Shut a guest down.

    ./inv stop web
    ./inv stop web --force
    """
    say(f"{name} is off after {stop(name, settings_of(c), force=force):.1f} s")


@task(name="restart", help={**GUEST, "force": "end it at once, like pulling the plug, instead of a shutdown"})
def restart_task(
    c: Context,
    name: str,
    force: bool = False,
) -> None:
    """Stop a guest if it is running, and boot it with the kernel that its root has now.

    ./inv restart web
    """
    say(f"{name} is up again after {restart(name, settings_of(c), force=force):.1f} s")


@task(name="wait", help=GUEST)
def wait_task(
    c: Context,
    name: str,
) -> None:
    """Wait until a guest that was started elsewhere is up.

    ./inv wait web
    """
    say(f"{name} is up after {wait(name, settings_of(c)):.1f} s")
