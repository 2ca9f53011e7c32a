"""Start, stop and restart guests, and wait for them."""

from __future__ import annotations

import time

from pipelines.cli.task import GUESTS, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, publication, several
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


@task(name="start", positional=["name"], iterable=["name"], help={**GUESTS, **several.ALL})
def start_task(
    c: Context,
    name: list[str],
    all: bool = False,  # noqa: A002 - the option
) -> None:
    """Boot guests and wait until they are up.

    ./inv start web
    ./inv start --all
    """
    ctx = context_of(c)

    def do(each: str) -> None:
        say(f"{each} is up after {start(each, ctx):.1f} s")

    several.for_each(several.list_names(name, ctx, all_of_them=all, running=False), do)


@task(
    name="stop",
    positional=["name"],
    iterable=["name"],
    help={**GUESTS, **several.ALL, "force": "end it at once, like pulling the plug"},
)
def stop_task(
    c: Context,
    name: list[str],
    all: bool = False,  # noqa: A002 - the option
    force: bool = False,
) -> None:
    """Shut guests down.

    ./inv stop web
    ./inv stop web db --force
    """
    ctx = context_of(c)

    def do(each: str) -> None:
        say(f"{each} is off after {stop(each, ctx, force=force):.1f} s")

    several.for_each(several.list_names(name, ctx, all_of_them=all, running=True), do, at_once=True)


@task(
    name="restart",
    positional=["name"],
    iterable=["name"],
    help={**GUESTS, **several.ALL, "force": "end it at once, like pulling the plug, instead of a shutdown"},
)
def restart_task(
    c: Context,
    name: list[str],
    all: bool = False,  # noqa: A002 - the option
    force: bool = False,
) -> None:
    """Stop guests that are running, and boot them with the kernel that their root has now.

    ./inv restart web
    """
    ctx = context_of(c)

    def do(each: str) -> None:
        say(f"{each} is up again after {restart(each, ctx, force=force):.1f} s")

    several.for_each(several.list_names(name, ctx, all_of_them=all, running=True), do)


@task(name="wait", positional=["name"], iterable=["name"], help={**GUESTS, **several.ALL})
def wait_task(
    c: Context,
    name: list[str],
    all: bool = False,  # noqa: A002 - the option
) -> None:
    """Wait until guests that were started elsewhere are up.

    ./inv wait web
    """
    ctx = context_of(c)

    def do(each: str) -> None:
        say(f"{each} is up after {wait(each, ctx):.1f} s")

    several.for_each(several.list_names(name, ctx, all_of_them=all, running=True), do, at_once=True)
