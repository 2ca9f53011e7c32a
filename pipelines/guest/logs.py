"""What is written about a guest: on its console, by the virtiofsd of each of its directories, by QEMU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.symptom.recognise import get_last_start
from pipelines.target.target import Target
from pipelines.text import plain, split_lines

CONSOLE, QEMU = "the console", "QEMU's log"

#: Bytes of a log's end that are looked at.
_SEARCHED = 1 << 20

_SIZES = 'for log do stat --format=%s -- "$log" 2> /dev/null || echo 0; done'

# One that was begun anew since is smaller than it was.
_AFTER = """
[ "$(stat --format=%s -- "$1")" -ge "$2" ] || set -- "$1" 0 "$3"
tail -c "+$(($2 + 1))" -- "$1" | tail -c "$3"
"""

# The command that starts QEMU is in its log, too, and longer than what it says.
_QEMU_SAYS = re.compile(r"(?m)^(?:\S{1,40} )?qemu[\w-]{0,40}: .{1,2000}")

_LINES, _CONSOLE_LINES = 10, 30


@dataclass(frozen=True)
class Logs:
    """The logs of one guest: ``paths`` on libvirt's machine, by what people call them.

    The console's is emptied at each start, the others grow.
    """

    target: Target
    paths: Mapping[str, str]

    def sizes(self) -> dict[str, int]:
        """Return how many bytes each has now; before a start they tell what is of earlier ones."""
        listed = split_lines(self.target.run(["sh", "-c", _SIZES, "sizes", *self.paths.values()]).text)
        return {name: int(size) for name, size in zip(self.paths, listed, strict=True)}

    def since(self, sizes: Mapping[str, int] | None) -> dict[str, str]:
        """Return as text what came after they had ``sizes``; where those are not known, since the last start."""
        return {name: self._after(name, sizes) for name in self.paths}

    def _after(self, name: str, sizes: Mapping[str, int] | None) -> str:
        begin = 0 if name == CONSOLE or sizes is None else sizes[name]
        argv = ["sh", "-c", _AFTER, "after", self.paths[name], str(begin), str(_SEARCHED)]
        text = plain(self.target.run(argv, check=False).stdout.decode(errors="replace"))
        return get_last_start(text) if sizes is None and name != CONSOLE else text


def shown(written: Mapping[str, str]) -> str:
    """Return the last lines of each log, under its name, for an error's detail; empty ones are left out."""
    return "\n".join(f"{name}:\n{text}" for name in written if (text := _last_lines(name, written[name])))


def _last_lines(name: str, text: str) -> str:
    lines = _QEMU_SAYS.findall(text) if name == QEMU else split_lines(text)
    return "\n".join(lines[-(_CONSOLE_LINES if name == CONSOLE else _LINES) :])
