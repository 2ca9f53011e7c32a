"""The logs of a guest: its console, the log of each of its virtiofsd, and the log of QEMU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.symptom.recognise import get_last_start
from pipelines.target.target import Target
from pipelines.text import plain, split_lines

CONSOLE, QEMU = "the console", "QEMU's log"

#: Bytes at the end of a log that are searched.
_SEARCHED = 1 << 20

_SIZES = 'for log do stat --format=%s -- "$log" 2> /dev/null || echo 0; done'

# A log that is smaller than before was begun again.
_AFTER = """
[ "$(stat --format=%s -- "$1")" -ge "$2" ] || set -- "$1" 0 "$3"
tail -c "+$(($2 + 1))" -- "$1" | tail -c "$3"
"""

# QEMU's command line is in its log, too, and is longer than its messages.
_QEMU_SAYS = re.compile(r"(?m)^(?:\S{1,40} )?qemu[\w-]{0,40}: .{1,2000}")

_LINES, _CONSOLE_LINES = 10, 30


@dataclass(frozen=True)
class Logs:
    """The logs of one guest: ``paths`` on libvirt's host, by their names for people.

    The console's log is emptied at each start, the others grow.
    """

    target: Target
    paths: Mapping[str, str]

    def read_sizes(self) -> dict[str, int]:
        """Return the current size of each log in bytes; taken before a start, they separate it from earlier ones."""
        listed = split_lines(self.target.run(["sh", "-c", _SIZES, "sizes", *self.paths.values()]).text)
        return {name: int(size) for name, size in zip(self.paths, listed, strict=True)}

    def read_since(self, sizes: Mapping[str, int] | None) -> dict[str, str]:
        """Return the text that was added to each log since it had ``sizes``, or since the last start if None."""
        return {name: self._read_after(name, sizes) for name in self.paths}

    def _read_after(self, name: str, sizes: Mapping[str, int] | None) -> str:
        begin = 0 if name == CONSOLE or sizes is None else sizes[name]
        argv = ["sh", "-c", _AFTER, "after", self.paths[name], str(begin), str(_SEARCHED)]
        text = plain(self.target.run(argv, check=False).stdout.decode(errors="replace"))
        return get_last_start(text) if sizes is None and name != CONSOLE else text


def format_tails(written: Mapping[str, str]) -> str:
    """Return the last lines of each log under its name, for the detail of an error; empty logs are left out."""
    return "\n".join(f"{name}:\n{text}" for name in written if (text := _format_tail(name, written[name])))


def _format_tail(name: str, text: str) -> str:
    lines = _QEMU_SAYS.findall(text) if name == QEMU else split_lines(text)
    return "\n".join(lines[-(_CONSOLE_LINES if name == CONSOLE else _LINES) :])
