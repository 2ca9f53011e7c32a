"""Run every pipeline once, from an empty machine to a running guest. A second run uses what exists."""

from __future__ import annotations

from dataclasses import replace

from pipelines import start
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.builder.inputs import Inputs
from pipelines.cli.task import ACCEPT, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import host_requests
from pipelines.guest.host_requests import Consent
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say
from pipelines.setup import setup
from pipelines.verify import verify_guest


def demo(inputs: Inputs, ctx: CommandContext, consent: Consent | None = None) -> None:
    """Set up the machine, build ``inputs``, install it as a guest, verify it, and leave it running.

    ``consent`` answers whether to grant the recipe's requests to the host.
    """
    name = inputs.name
    setup(ctx.settings)
    hypervisor = ctx.hypervisor
    if hypervisor.is_defined(name):
        say(f"the guest {name} exists already, and is used as it is")
    else:
        try:
            artifact = ctx.store.latest(name, inputs.source)
            say(f"{artifact.id} exists already; run ./inv build --distro {name} for a new one")
        except VirtrootError:
            artifact = build(inputs, ctx)
        install(name, artifact, replace(_make_options(hypervisor), consent=consent), ctx)
    verify_guest(name, ctx, boot=True)
    if not start.is_running(name, ctx):
        say(f"{name} is up after {start.start(name, ctx):.1f} s")
    say(f"a command in it:   ./inv exec {name} -- uname -r")
    say(f"its console:       ./inv console {name}")
    say(f"shut it down:      ./inv stop {name}")
    say(f"delete it:         ./inv remove {name}")


def _make_options(hypervisor: Hypervisor) -> InstallOptions:
    """Return the options for the guest; without KVM, those that make it boot fast."""
    if hypervisor.kvm:
        return InstallOptions()
    say("without KVM the guest gets cache: always: it boots faster, but sees changes by the host only after a boot")
    return InstallOptions(cache="always")


@task(name="demo", help={"distro": "the recipe by name", **ACCEPT})
def demo_task(
    c: Context,
    distro: str = "debian",
    accept: bool = False,
) -> None:
    """Build a root, boot a guest from it, and verify it, starting from an empty machine.

    ./inv demo
    """
    ctx = context_of(c)
    demo(inputs.find(distro, settings=ctx.settings), ctx, host_requests.get_consent(accept))
