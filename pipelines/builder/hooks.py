"""Finds failed hooks of pacman in a log. pacman prints an error and exits with 0; dpkg and apt fail instead."""

from __future__ import annotations

import re

from pipelines.text import plain, split_lines, trim

#: pacman's line before each hook, with the hook's description.
_START = re.compile(r"\(\s*\d+/\d+\) (\S.*)")

#: pacman's line if a hook's program failed or could not be started, and mkinitcpio's for an incomplete image.
_FAILURE = re.compile(
    r"error: command failed to execute correctly|call to execv failed.*|error: could not fork a new process.*"
    r"|==> WARNING: errors were encountered during the build.*"
)

#: Words in the descriptions of hooks that a guest needs to boot: those of mkinitcpio, dracut and booster.
_NEEDED = re.compile(r"initcpio|initramfs|dracut|booster", re.IGNORECASE)


def find_failed(log: str) -> tuple[str, ...]:
    """Return the descriptions of the hooks that failed in ``log``, each once."""
    found, hook = [], ""
    for line in split_lines(plain(log)):
        if begins := _START.fullmatch(trim(line)):
            hook = begins[1].rstrip(".")
        elif _FAILURE.fullmatch(trim(line)):
            found.append(hook or "a hook of pacman")
    return tuple(dict.fromkeys(found))


def is_needed_to_boot(hook: str) -> bool:
    """Return whether a guest does not boot if ``hook`` failed."""
    return bool(_NEEDED.search(hook))
