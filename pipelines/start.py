"""Start, stop and restart guests, and wait for them."""

from __future__ import annotations

import time

from pipelines.cli.task import GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, publication
from pipelines.log import say


def start(name: str, ctx: CommandContext) -> float:
    """Boot the guest and return the seconds until its agent answered."""
    with hold.hold(ctx.hypervisor, name) as guest:
        if guest.running:
            raise VirtrootError(f"the guest {name} is already running", f"see ./inv console {name}")
        return publication.start(guest, ctx.settings.timeout)


def stop(name: str, ctx: CommandContext, *, force: bool = False) -> float:
    """Shut the guest down and return the seconds that took; ``force`` ends it at once, without a shutdown."""
    # What killed tasks left must not prevent a stop.
    with hold.hold(ctx.hypervisor, name, tidy=False) as guest:
        guest.check_running()
        return guest.stop(ctx.settings.timeout, force=force)


def restart(name: str, ctx: CommandContext, *, force: bool = False) -> float:
    """Stop the guest if it is running, and boot the kernel that its root has now; return the seconds that took."""
    begin = time.monotonic()
    with hold.hold(ctx.hypervisor, name) as guest:
        hostdir.refuse_gone(guest)
        if guest.running:
            guest.stop(ctx.settings.timeout, force=force)
        publication.start(guest, ctx.settings.timeout)
    return time.monotonic() - begin


def is_running(name: str, ctx: CommandContext) -> bool:
    """Return whether the guest is in any state other than shut off."""
    return guests.get(ctx.hypervisor, name).running


def wait(name: str, ctx: CommandContext) -> float:
    """Wait until the agent of the running guest answers; return the seconds that took."""
    guest = guests.get(ctx.hypervisor, name)
    guest.check_running()
    # An agent whose program is in memory answers even if the guest cannot read files any more.
    guest.refuse_unserved()
    return guest.wait(ctx.settings.timeout)


@task(name="start", help=GUEST)
def start_task(
    c: Context,
    name: str,
) -> None:
    """Boot a guest and wait until it is up.

    ./inv start web
    """
    say(f"{name} is up after {start(name, context_of(c)):.1f} s")


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
    say(f"{name} is off after {stop(name, context_of(c), force=force):.1f} s")


@task(name="restart", help={**GUEST, "force": "end it at once, like pulling the plug, instead of a shutdown"})
def restart_task(
    c: Context,
    name: str,
    force: bool = False,
) -> None:
    """Stop a guest if it is running, and boot it with the kernel that its root has now.

    ./inv restart web
    """
    say(f"{name} is up again after {restart(name, context_of(c), force=force):.1f} s")


@task(name="wait", help=GUEST)
def wait_task(
    c: Context,
    name: str,
) -> None:
    """Wait until a guest that was started elsewhere is up.

    ./inv wait web
    """
    say(f"{name} is up after {wait(name, context_of(c)):.1f} s")
