"""What the modules of verbs declare tasks with, and what tasks share: options, settings, output."""

from __future__ import annotations

import json
from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from pipelines.log import result
from pipelines.settings import Settings, from_section

__all__ = ["ACCEPT", "DECIDE", "GUEST", "RESTART", "Context", "print_data", "settings_of", "task"]

#: The help of options that several tasks have.
GUEST = {"name": "the guest's name"}
RESTART = {"restart": "shut the guest down for it where it runs, and boot it again"}
DECIDE = {
    "take": "old PATH or new PATH: the guest's or the other root's of what both changed in /etc; several times",
    "keep": "PATH to carry over with all that is in it, now and at later upgrades; several times",
    "discard": "PATH or PACKAGE to leave behind; several times",
    "preview": "show what would become of the guest, and change nothing",
    "json": "print what becomes of the guest as JSON",
}
ACCEPT = {"accept": "let the host give what the recipe asks of it: shares, overlayfs, a network; do not ask"}


def settings_of(context: Context, **given: str) -> Settings:
    """Return the settings of a task, with the options that were ``given`` and are not empty in their place."""
    return from_section({**context.config.virtroot, **{key: value for key, value in given.items() if value}})


def print_data(data: object) -> None:
    """Print a text as it is, and anything else as JSON; an empty text is not printed."""
    text = data if isinstance(data, str) else json.dumps(data, indent=2, default=asdict)
    if text:
        result(text)
