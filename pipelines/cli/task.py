"""What the tasks share: the decorator, help texts of common options, settings, output."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from pipelines import lazy
from pipelines import project as projects
from pipelines.context import CommandContext
from pipelines.log import result

with lazy.imports():
    from pipelines import settings

__all__ = [
    "ACCEPT",
    "DECIDE",
    "GUEST",
    "GUESTS",
    "RESTART",
    "Context",
    "context_of",
    "print_data",
    "settings_of",
    "task",
]

#: The help of options that several tasks have.
GUEST = {"name": "the guest's name"}
GUESTS = {"name": "names of guests"}
RESTART = {"restart": "shut down a running guest, and boot it again afterwards"}
DECIDE = {
    "take": "old PATH or new PATH: use the guest's or the new root's file where both changed it in /etc; repeatable",
    "keep": "PATH to copy over with its content, now and at later upgrades; repeatable",
    "discard": "PATH or PACKAGE to leave behind; repeatable",
    "preview": "show the changes to the guest, and make none",
    "json": "print the changes to the guest as JSON",
}
ACCEPT = {"accept": "grant the recipe's requests to the host (shares, overlayfs, a network) without asking"}


#: The key of invoke's configuration with the project directory.
PROJECT_KEY = "project_of_virtroot"


def settings_of(context: Context, **given: str) -> settings.Settings:
    """Return the settings of a task; ``given`` options that are not empty replace settings of their name."""
    own = {key: value for key, value in given.items() if value}
    return settings.from_section({**context.config.virtroot, **own}, project_of(context))


def project_of(context: Context) -> Path:
    """Return the project directory of a task."""
    return Path(context.config.get(PROJECT_KEY) or projects.find())


def context_of(context: Context, **given: str) -> CommandContext:
    """Return what a task works with; ``given`` options that are not empty replace settings of their name."""
    return CommandContext(settings_of(context, **given))


def print_data(data: object) -> None:
    """Print a string as it is, unless it is empty, and anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, indent=2, default=asdict)
    if text:
        result(text)
