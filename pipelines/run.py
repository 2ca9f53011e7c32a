"""Run: a guest that is made, used and thrown away."""

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
from pipelines.artifact.store import Store
from pipelines.builder import inputs
from pipelines.cli.task import ACCEPT, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import command_stream, hold, host_requests, publication, standard_input
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.host.signals import raise_interrupt_on
from pipelines.install import InstallOptions, install, options
from pipelines.libvirt import beside
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import output, say, step, warn
from pipelines.pool import place, pool
from pipelines.pool.place import Place
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from pipelines.text import split_lines

#: Guests that it makes are called after it.
_TASK = "run"

#: A guest's name may have so many characters, with a number behind it.
_LONGEST = 56

_NUMBERS = range(1, 1000)

_AUTOLOGIN = "etc/systemd/system/serial-getty@ttyS0.service.d/virtroot-autologin.conf"

# Nobody else gets to this console, and the root has no password.
_LOGGED_IN = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I $TERM
"""


def run(artifact: Artifact, options: InstallOptions, argv: Sequence[str], settings: Settings) -> int:
    """Boot a guest of ``artifact``, run ``argv`` in it or join its console, and throw it away; return the exit status.

    Raises `VirtrootError` where there is neither a command nor a terminal.
    """
    options = replace(options, transient=owner(_TASK, settings))
    if not argv and not sys.stdin.isatty():
        raise VirtrootError("neither a command nor a terminal to join its console to", "write it behind: -- uname -r")
    stdin = standard_input.find_descriptor(sys.stdin)
    with raise_interrupt_on(signal.SIGTERM, signal.SIGHUP), _guest(artifact, options, settings) as guest:
        with hold.hold(guest.hypervisor, guest.name):
            if not argv:
                beside.write(guest.target, guest.root, _AUTOLOGIN, 0o644, _LOGGED_IN)
            seconds = publication.start(guest, settings.timeout)
        if argv:
            return command_stream.run(guest.agent, argv, output(sys.stdout), output(sys.stderr), stdin=stdin)
        say(f"{guest.name} is up after {seconds:.1f} s; Enter shows its prompt, Ctrl-] ends and deletes it")
        return guest.hypervisor.console(guest.uuid)


def owner(task: str, settings: Settings) -> str:
    """Return whose the guests are that ``task`` throws away: no other machine's, and no other checkout's."""
    return f"{task} {socket.gethostname()}:{settings.output_dir}"


@contextmanager
def _guest(artifact: Artifact, options: InstallOptions, settings: Settings) -> Iterator[Guest]:
    """Install a guest and remove it afterwards; its lock, held meanwhile, tells others that it is not left over."""
    hypervisor = connect(settings)
    _clear_left(hypervisor, options.transient, settings)
    with ExitStack() as held:
        name = _vacant(hypervisor, artifact.manifest.name, settings, held)
        try:
            install(name, artifact, options, settings)
            yield guests.find(hypervisor, name)
        finally:
            with step("throwing it away"):
                throw_away(hypervisor, name, settings, options.transient)


def _vacant(hypervisor: Hypervisor, recipe: str, settings: Settings, held: ExitStack) -> str:
    """Return a name that no domain has, its lock entered in ``held``."""
    taken = {known.name for known in hypervisor.domains()}
    for name in names(_TASK, recipe):
        if name not in taken:
            with suppress(Busy):
                held.enter_context(Store(settings.output_dir).lock(name, "run"))
                return name
    raise VirtrootError(f"too many guests of {recipe} run", "./inv list shows them: remove some")


def _clear_left(hypervisor: Hypervisor, owner: str, settings: Settings) -> None:
    """Remove the guests that killed runs left: those whose lock nobody holds."""
    store = Store(settings.output_dir)
    for guest in guests.every(hypervisor):
        if guest.transient == owner:
            try:
                with store.lock(guest.name, "run"):
                    say(f"removing the guest {guest.name} that a killed run left")
                    throw_away(hypervisor, guest.name, settings, owner)
            except Busy:
                continue
    _clear_unmade(hypervisor, settings)


def _clear_unmade(hypervisor: Hypervisor, settings: Settings) -> None:
    """Remove what is left of runs that were killed before their guest was there, or when it was gone."""
    directory = pool.look(hypervisor, settings)
    if directory is None:
        return
    listed = split_lines(hypervisor.target.run(["ls", "-A", directory, place.BOOT], check=False).text)
    for name in sorted({place.left_of(each) for each in listed}):
        if not name.startswith(f"{_TASK}-") or hypervisor.defined(name):
            continue
        try:
            # Whoever makes one now, in whichever checkout, holds its lock.
            paths = Place(directory, name)
            with hold.new(hypervisor, paths):
                publication.sweep(hypervisor, paths)
        except Busy:
            continue
        except VirtrootError as error:
            warn(f"what a killed run left of {name} stays: {error.what}")


def names(task: str, recipe: str) -> Iterator[str]:
    """Yield names for guests of ``recipe`` that ``task`` throws away, the plain one first."""
    stem = f"{task}-{recipe}"
    if len(stem) > _LONGEST:
        stem = f"{stem[: _LONGEST - 9]}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    return (stem if number == 1 else f"{stem}-{number}" for number in _NUMBERS)


def throw_away(hypervisor: Hypervisor, name: str, settings: Settings, owner: str) -> None:
    """End and remove a guest that is ``owner``'s; one of that name that is not is left alone.

    One that cannot be removed now is left to the next run of what made it.
    """
    try:
        if hypervisor.defined(name):
            if guests.find(hypervisor, name).transient != owner:
                return
            end(hypervisor, name)
        remove.remove(name, settings, asking=None)
    except VirtrootError as error:
        warn(f"the guest {name} was not removed, the next one tries again: {error.what}")


def end(hypervisor: Hypervisor, name: str) -> None:
    """Pull a guest's plug where it runs."""
    guest = guests.find(hypervisor, name)
    if guest.running:
        hypervisor.virsh("destroy", guest.uuid, check=False)


@task(
    name="run",
    iterable=["share"],
    help={
        "distro": "of which recipe; debian, where nothing is said",
        "recipe": "of which recipe file",
        "artifact": "of the artifact in this directory",
        "memory": "override the recipe's memory, like 2GiB",
        "vcpus": "override the recipe's number of CPUs",
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create], a further directory; may be given several times",
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
    """Run a command, or a shell, in a guest that is thrown away.

    ./inv run --distro debian -- uname -r
    """
    settings = settings_of(c)
    distro = distro or ("" if recipe or artifact else "debian")
    made, _ = inputs.choose_artifact(settings, "", distro, recipe, artifact)
    consent = host_requests.consent(accept)
    wanted = options(memory, vcpus, "", "", cache="always", overlayfs=overlayfs, share=share, consent=consent)
    sys.exit(run(made, wanted, command, settings))
