"""Run commands in guests, and connect to their consoles."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.cli.task import GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import command_stream, standard_input
from pipelines.guest import guest as guests
from pipelines.log import output, say


def execute(name: str, argv: Sequence[str], ctx: CommandContext) -> int:
    """Run ``argv`` in the guest through its agent and pass input and output on; return the exit status.

    Standard input is not read if it is a terminal.
    """
    if not argv:
        raise VirtrootError("no command given", f"add it: ./inv exec {name} uname -r")
    stdin = standard_input.find_descriptor(sys.stdin)
    guest = guests.get(ctx.hypervisor, name)
    guest.check_running()
    with guest.explain_silence():
        return command_stream.run(guest.agent, argv, output(sys.stdout), output(sys.stderr), stdin=stdin)


def refresh(name: str, ctx: CommandContext) -> None:
    """Make the running guest drop its caches, so that it sees what was changed on the host."""
    guest = guests.get(ctx.hypervisor, name)
    guest.check_running()
    with guest.explain_silence():
        done = guest.agent.run(["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])
    if done.returncode:
        raise VirtrootError(f"{name} did not drop its caches: {done.complaint}", f"run ./inv restart {name}")


def console(name: str, ctx: CommandContext) -> int:
    """Connect this terminal to the guest's console until Ctrl-]."""
    guest = guests.get(ctx.hypervisor, name)
    guest.check_running()
    return guest.hypervisor.console(guest.uuid)


@task(name="exec", help=GUEST)
def exec_task(
    c: Context,
    name: str,
    command: Sequence[str] = (),
) -> None:
    """Run a command in a guest through its agent.

    ./inv exec web uname -r
    """
    sys.exit(execute(name, command, context_of(c)))


@task(name="console", help=GUEST)
def console_task(
    c: Context,
    name: str,
) -> None:
    """Connect to a guest's serial console; Ctrl-] leaves it.

    ./inv console web
    """
    sys.exit(console(name, context_of(c)))


@task(name="refresh", help=GUEST)
def refresh_task(
    c: Context,
    name: str,
) -> None:
    """Make a guest with cache mixed or always see what was changed on the host.

    ./inv refresh web
    """
    refresh(name, context_of(c))
    say(f"{name} dropped its caches")
