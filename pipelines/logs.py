"""Show a guest's console, or the log of its virtiofsd or QEMU."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator

from pipelines.cli.task import GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.log import result, warn
from pipelines.pool import place
from pipelines.symptom import recognise
from pipelines.symptom.symptom import Symptom
from pipelines.text import plain

_AFTER = """
size=$(stat --format=%s "$1"); echo "$size"
[ "$2" -le "$size" ] || set -- "$1" 0
tail -c "+$(($2 + 1))" "$1" | head -c 1048576
"""

#: The most characters to wait for the end of a line.
_LONGEST_LINE = 64 << 10

#: Seconds between two polls of a log that is followed.
_FOLLOW_SECONDS = 1.0


def read_log(name: str, ctx: CommandContext, *, which: str = "console", follow: bool = False) -> Iterator[str]:
    """Yield the text of a guest's log, ``console``, ``virtiofsd`` or ``qemu``; ``follow`` continues with new text.

    For known symptoms in it, warnings at the end give the cause and the remedy.
    """
    hypervisor = ctx.hypervisor
    guest = guests.get(hypervisor, name)
    shown: set[Symptom] = set()
    for piece in _read_pieces(guest, which, follow=follow):
        begin = -1 if which == "console" else recognise.find_last_start(piece)
        if begin >= 0:
            # What was read so far is from an earlier start.
            shown.clear()
        shown.update(recognise.find_symptoms([piece[max(begin, 0) :]], guest.symptoms))
        yield piece
    for symptom in guest.symptoms:
        if symptom in shown:
            warn(f"{name}: {symptom.cause}: {symptom.format_hint(name)}")


def _read_pieces(guest: Guest, which: str, *, follow: bool) -> Iterator[str]:
    name = guest.name
    path = {"virtiofsd": place.virtiofsd_log(name), "qemu": place.qemu_log(name)}.get(which, guest.console_log)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset, end, begun = 0, -1, ""
    while True:
        piece, offset, size = _read_after(guest, path, offset)
        end = size if end < 0 else end
        text = begun + decoder.decode(piece)
        # Escape sequences end with their line, so only whole lines are converted to plain text.
        whole, newline, begun = text.rpartition("\n")
        if len(begun) > _LONGEST_LINE:
            whole, newline, begun = text, "", ""
        if whole or newline:
            yield plain(whole + newline)
        if not follow and (not piece or offset >= end):
            yield plain(begun)
            return
        if not piece:
            time.sleep(_FOLLOW_SECONDS)


def _read_after(guest: Guest, path: str, offset: int) -> tuple[bytes, int, int]:
    """Return up to 1 MiB of a log after ``offset``, the new offset, and the log's size; a truncated log begins at 0."""
    done = guest.target.run(["sh", "-ec", _AFTER, "after", path, str(offset)], check=False)
    if done.returncode:
        raise VirtrootError(f"{guest.name} has no log {path}", f"run ./inv start {guest.name}, which makes one")
    size, _, content = done.stdout.partition(b"\n")
    begin = offset if offset <= int(size) else 0
    return content, begin + len(content), int(size)


@task(
    name="logs",
    help={
        **GUEST,
        "virtiofsd": "show the log of the virtiofsd that serves the root",
        "qemu": "show libvirt's log of QEMU",
        "follow": "continue with new text; Ctrl-C ends it",
    },
)
def logs_task(
    c: Context,
    name: str,
    virtiofsd: bool = False,
    qemu: bool = False,
    follow: bool = False,
) -> None:
    """Print the console of a guest since its last start, or a log of its virtiofsd or QEMU.

    ./inv logs web
    ./inv logs web --virtiofsd
    """
    if virtiofsd and qemu:
        raise VirtrootError("--virtiofsd and --qemu were both given", "use one of them")
    which = "virtiofsd" if virtiofsd else "qemu" if qemu else "console"
    for piece in read_log(name, context_of(c), which=which, follow=follow):
        result(piece, end="")
