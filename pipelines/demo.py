"""Demo: every pipeline once, from an empty machine to a guest that is up."""

from __future__ import annotations

from pipelines.build import build
from pipelines.builder.inputs import Wanted
from pipelines.install import Wishes, install
from pipelines.log import say
from pipelines.machine.setup import setup
from pipelines.operate import start
from pipelines.settings import Settings
from pipelines.verify import verify_guest


def demo(wanted: Wanted, settings: Settings) -> None:
    """Set up, build ``wanted``, install it under its recipe's name, verify it booted, and leave it running."""
    name = wanted.name
    setup(settings)
    artifact = build(wanted, settings)
    install(name, artifact, Wishes(), settings)
    verify_guest(name, settings, boot=True)
    say(f"{name} is up after {start(name, settings):.1f} s")
    say(f"a command in it:   ./inv exec --name {name} -- uname -r")
    say(f"its console:       ./inv console --name {name}")
    say(f"shut it down:      ./inv stop --name {name}")
    say(f"delete it:         ./inv remove --name {name}")
