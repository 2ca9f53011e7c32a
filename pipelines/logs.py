"""Show what a guest wrote on its console, and what virtiofsd and QEMU wrote of it."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator

from pipelines.cli.task import GUEST, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.log import result, warn
from pipelines.pool import place
from pipelines.settings import Settings
from pipelines.symptom import recognise
from pipelines.symptom.symptom import Symptom
from pipelines.text import plain

_AFTER = """
size=$(stat --format=%s "$1"); echo "$size"
[ "$2" -le "$size" ] || set -- "$1" 0
tail -c "+$(($2 + 1))" "$1" | head -c 1048576
"""

#: Characters of a line that are waited for before it is shown.
_LONGEST = 64 << 10

#: Seconds between two looks at a log that is followed.
_FOLLOW = 1.0


def log(name: str, settings: Settings, *, which: str = "console", follow: bool = False) -> Iterator[str]:
    """Yield the text of a guest's log, ``console``, ``virtiofsd`` or ``qemu``; with ``follow`` also what comes.

    Where it shows symptoms that are known, warnings at the end say what causes them and what to do.
    """
    hypervisor = connect(settings)
    guest = guests.find(hypervisor, name)
    shown: set[Symptom] = set()
    for piece in _pieces(guest, which, follow=follow):
        begin = -1 if which == "console" else recognise.find_last_start(piece)
        if begin >= 0:
            # What was read before is of an earlier start.
            shown.clear()
        shown.update(recognise.find_symptoms([piece[max(begin, 0) :]], guest.symptoms))
        yield piece
    for symptom in guest.symptoms:
        if symptom in shown:
            warn(f"{name}: {symptom.cause}: {symptom.format_hint(name)}")


def _pieces(guest: Guest, which: str, *, follow: bool) -> Iterator[str]:
    name = guest.name
    path = {"virtiofsd": place.virtiofsd_log(name), "qemu": place.qemu_log(name)}.get(which, guest.console_log)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset, end, begun = 0, -1, ""
    while True:
        piece, offset, size = _after(guest, path, offset)
        end = size if end < 0 else end
        text = begun + decoder.decode(piece)
        # Escapes end with their line, so whole lines can be made plain.
        whole, newline, begun = text.rpartition("\n")
        if len(begun) > _LONGEST:
            whole, newline, begun = text, "", ""
        if whole or newline:
            yield plain(whole + newline)
        if not follow and (not piece or offset >= end):
            yield plain(begun)
            return
        if not piece:
            time.sleep(_FOLLOW)


def _after(guest: Guest, path: str, offset: int) -> tuple[bytes, int, int]:
    """Return up to 1 MiB of a log after ``offset``, the offset behind it, and its size; one begun anew is read anew."""
    done = guest.target.run(["sh", "-ec", _AFTER, "after", path, str(offset)], check=False)
    if done.returncode:
        raise VirtrootError(f"{guest.name} has no log {path}", f"it gets one when it starts: ./inv start {guest.name}")
    size, _, content = done.stdout.partition(b"\n")
    begin = offset if offset <= int(size) else 0
    return content, begin + len(content), int(size)


@task(
    name="logs",
    help={
        **GUEST,
        "virtiofsd": "the log of the daemon that serves the root, instead of the console's",
        "qemu": "libvirt's log of QEMU",
        "follow": "go on with what comes; Ctrl-C ends it",
    },
)
def logs_task(
    c: Context,
    name: str,
    virtiofsd: bool = False,
    qemu: bool = False,
    follow: bool = False,
) -> None:
    """Print what a guest wrote to its console since its last start, or a log of what serves it.

    ./inv logs web
    ./inv logs web --virtiofsd
    """
    if virtiofsd and qemu:
        raise VirtrootError("--virtiofsd and --qemu both given", "give one of them")
    which = "virtiofsd" if virtiofsd else "qemu" if qemu else "console"
    for piece in log(name, settings_of(c), which=which, follow=follow):
        result(piece, end="")
