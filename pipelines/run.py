"""Run a command or a shell in a temporary guest."""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from pipelines import remove
from pipelines.artifact.artifact import Artifact
from pipelines.builder import inputs
from pipelines.cli.task import ACCEPT, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import command_stream, hold, host_requests, publication, standard_input
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.guest.install_options import InstallOptions, parse_options
from pipelines.host.signals import raise_interrupt_on
from pipelines.install import install
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import output, say, step, warn
from pipelines.pool import place, pool
from pipelines.pool.place import Place
from pipelines.settings import Settings
from pipelines.target import programs
from pipelines.target.lock import Busy
from pipelines.text import split_lines

#: The prefix of the guests' names.
_TASK = "run"

#: The most characters of a name without its number: a guest's name has at most 63.
_LONGEST_STEM = 56

_NUMBERS = range(1, 1000)

_AUTOLOGIN = "etc/systemd/system/serial-getty@ttyS0.service.d/virtroot-autologin.conf"

# Only the user who runs this task can reach the console; the root has no password.
_AUTOLOGIN_CONTENT = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I $TERM
"""


def run(artifact: Artifact, options: InstallOptions, argv: Sequence[str], ctx: CommandContext) -> int:
    """Boot a guest from ``artifact``, run ``argv`` in it or connect to its console, and remove it.

    Returns the exit status. Raises `VirtrootError` if there is neither a command nor a terminal.
    """
    options = replace(options, transient=format_owner(_TASK, ctx.settings))
    if not argv and not sys.stdin.isatty():
        raise VirtrootError("no command given, and standard input is not a terminal", "add a command: -- uname -r")
    stdin = standard_input.find_descriptor(sys.stdin)
    with raise_interrupt_on(signal.SIGTERM, signal.SIGHUP), _temporary_guest(artifact, options, ctx) as guest:
        with hold.hold(guest.hypervisor, guest.name):
            if not argv:
                programs.write(guest.target, guest.root, _AUTOLOGIN, 0o644, _AUTOLOGIN_CONTENT)
            seconds = publication.start(guest, ctx.settings.timeout)
        if argv:
            return command_stream.run(guest.agent, argv, output(sys.stdout), output(sys.stderr), stdin=stdin)
        say(f"{guest.name} is up after {seconds:.1f} s; Enter shows its prompt, Ctrl-] ends and removes it")
        return guest.hypervisor.console(guest.uuid)


def format_owner(task: str, settings: Settings) -> str:
    """Return the owner of the temporary guests of ``task``: it names this machine and the output directory."""
    return f"{task} {socket.gethostname()}:{settings.output_dir}"


@contextmanager
def _temporary_guest(artifact: Artifact, options: InstallOptions, ctx: CommandContext) -> Iterator[Guest]:
    """Install a guest and remove it afterwards; its lock, held meanwhile, tells other runs that it is in use."""
    _clear_killed_runs(options.transient, ctx)
    with ExitStack() as held:
        name = _reserve_name(artifact.manifest.name, ctx, held)
        try:
            install(name, artifact, options, ctx)
            yield guests.get(ctx.hypervisor, name)
        finally:
            with step("removing the guest"):
                delete_temporary(name, ctx, options.transient)


def _reserve_name(recipe: str, ctx: CommandContext, held: ExitStack) -> str:
    """Return a name that no domain has, and hold its lock until ``held`` is closed."""
    taken = {known.name for known in ctx.hypervisor.domains()}
    for name in generate_names(_TASK, recipe):
        if name not in taken:
            with suppress(Busy):
                held.enter_context(ctx.store.lock(name, "run"))
                return name
    raise VirtrootError(f"there are too many guests of {recipe}", "remove some of them, see ./inv list")


def _clear_killed_runs(owner: str, ctx: CommandContext) -> None:
    """Remove the guests that killed runs left: those whose lock is free."""
    store = ctx.store
    for guest in guests.list_guests(ctx.hypervisor):
        if guest.transient == owner:
            try:
                with store.lock(guest.name, "run"):
                    say(f"removing the guest {guest.name} that a killed run left")
                    delete_temporary(guest.name, ctx, owner)
            except Busy:
                continue
    _clear_leftovers(ctx)


def _clear_leftovers(ctx: CommandContext) -> None:
    """Delete what was left by runs that were killed before their guest was defined, or after it was undefined."""
    hypervisor = ctx.hypervisor
    directory = pool.find_directory(hypervisor, ctx.settings)
    if directory is None:
        return
    listed = split_lines(hypervisor.target.run(["ls", "-A", directory, place.BOOT], check=False).text)
    for name in sorted({place.guest_of_leftover(each) for each in listed}):
        if not name.startswith(f"{_TASK}-") or hypervisor.is_defined(name):
            continue
        try:
            # A run that is making one now, in any checkout, holds its lock.
            paths = Place(directory, name)
            with hold.new(hypervisor, paths):
                publication.delete_hidden(hypervisor, paths)
        except Busy:
            continue
        except VirtrootError as error:
            warn(f"cannot delete what a killed run left of {name}: {error.what}")


def generate_names(task: str, recipe: str) -> Iterator[str]:
    """Yield names for temporary guests of ``recipe``, first the one without a number."""
    stem = f"{task}-{recipe}"
    if len(stem) > _LONGEST_STEM:
        stem = f"{stem[: _LONGEST_STEM - 9]}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    return (stem if number == 1 else f"{stem}-{number}" for number in _NUMBERS)


def delete_temporary(name: str, ctx: CommandContext, owner: str) -> None:
    """End and remove a guest if ``owner`` owns it.

    If that fails, the next run of the owner tries again.
    """
    hypervisor = ctx.hypervisor
    try:
        if hypervisor.is_defined(name):
            if guests.get(hypervisor, name).transient != owner:
                return
            force_off(hypervisor, name)
        remove.remove(name, ctx, ask=None)
    except VirtrootError as error:
        warn(f"the guest {name} was not removed, the next run tries again: {error.what}")


def force_off(hypervisor: Hypervisor, name: str) -> None:
    """End a guest at once if it is running."""
    guest = guests.get(hypervisor, name)
    if guest.running:
        hypervisor.virsh("destroy", guest.uuid, check=False)


@task(
    name="run",
    positional=["distro"],
    iterable=["share"],
    help={
        "distro": "use this recipe; by default debian",
        "recipe": "use this recipe file",
        "artifact": "use the artifact in this directory",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], an additional directory; may be given several times",
        "overlayfs": "let the guest mount overlayfs (Docker)",
        **ACCEPT,
    },
)
def run_task(
    c: Context,
    share: list[str],
    distro: str = "",
    recipe: str = "",
    artifact: str = "",
    memory: str = "",
    vcpus: int = 0,
    overlayfs: bool = False,
    accept: bool = False,
    command: Sequence[str] = (),
) -> None:
    """Run a command, or a shell, in a temporary guest.

    ./inv run debian -- uname -r
    """
    ctx = context_of(c)
    distro = distro or ("" if recipe or artifact else "debian")
    made, _ = inputs.choose_artifact(ctx.settings, "", distro, recipe, artifact)
    consent = host_requests.get_consent(accept)
    wanted = parse_options(memory, vcpus, "", "", cache="always", overlayfs=overlayfs, share=share, consent=consent)
    sys.exit(run(made, wanted, command, ctx))
