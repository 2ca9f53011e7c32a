"""Demo: every pipeline once, from an empty machine to a guest that is up; again, it goes on from what is there."""

from __future__ import annotations

from dataclasses import replace

from pipelines import start
from pipelines.artifact.store import Store
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.builder.inputs import Inputs
from pipelines.cli.task import ACCEPT, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import host_requests
from pipelines.guest.host_requests import Consent
from pipelines.install import InstallOptions, install
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say
from pipelines.settings import Settings
from pipelines.setup import setup
from pipelines.verify import verify_guest


def demo(inputs: Inputs, settings: Settings, consent: Consent | None = None) -> None:
    """Set up, build ``inputs``, install it under its recipe's name, verify it booted, and leave it running.

    ``consent`` answers whether the host gives what the recipe asks of it.
    """
    name = inputs.name
    setup(settings)
    hypervisor = connect(settings)
    if hypervisor.is_defined(name):
        say(f"there is a guest {name} already: it is taken as it is")
    else:
        try:
            artifact = Store(settings.output_dir).latest(name, inputs.source)
            say(f"{artifact.id} is built already; ./inv build --distro {name} builds a new one")
        except VirtrootError:
            artifact = build(inputs, settings)
        install(name, artifact, replace(_options(hypervisor), consent=consent), settings)
    verify_guest(name, settings, boot=True)
    if not start.is_running(name, settings):
        say(f"{name} is up after {start.start(name, settings):.1f} s")
    say(f"a command in it:   ./inv exec {name} -- uname -r")
    say(f"its console:       ./inv console {name}")
    say(f"shut it down:      ./inv stop {name}")
    say(f"delete it:         ./inv remove {name}")


def _options(hypervisor: Hypervisor) -> InstallOptions:
    """Return what makes the first guest that somebody sees boot in a time that they will wait for."""
    if hypervisor.kvm:
        return InstallOptions()
    say("without KVM the guest gets cache: always: it boots sooner, but sees your edits from its next boot")
    return InstallOptions(cache="always")


@task(name="demo", help={"distro": "recipe by name", **ACCEPT})
def demo_task(
    c: Context,
    distro: str = "debian",
    accept: bool = False,
) -> None:
    """From an empty machine to a booted, verified guest.

    ./inv demo
    """
    settings = settings_of(c)
    demo(inputs.find(distro, snapshots=settings.snapshots), settings, host_requests.get_consent(accept))
