"""Hooks of pacman that failed: pacman says so, goes on, and exits with 0. dpkg and apt do not: they fail."""

from __future__ import annotations

import re

from pipelines.text import plain, split_lines, trim

#: pacman before each hook, with the hook's description.
_BEGINS = re.compile(r"\(\s*\d+/\d+\) (\S.*)")

#: pacman after a hook's program failed or could not be started, and mkinitcpio after an image that lacks something.
_FAILS = re.compile(
    r"error: command failed to execute correctly|call to execv failed.*|error: could not fork a new process.*"
    r"|==> WARNING: errors were encountered during the build.*"
)

#: What hooks are about without whose work a guest does not boot: mkinitcpio's, dracut's and booster's descriptions.
_BOOTS = re.compile(r"initcpio|initramfs|dracut|booster", re.IGNORECASE)


def failed(log: str) -> tuple[str, ...]:
    """Return the descriptions of the hooks that failed in ``log``, each once."""
    found, hook = [], ""
    for line in split_lines(plain(log)):
        if begins := _BEGINS.fullmatch(trim(line)):
            hook = begins[1].rstrip(".")
        elif _FAILS.fullmatch(trim(line)):
            found.append(hook or "a hook of pacman")
    return tuple(dict.fromkeys(found))


def makes_a_root_boot(hook: str) -> bool:
    """Say whether a guest does not boot without what that hook does."""
    return bool(_BOOTS.search(hook))
