"""A guest gets another root under its name: root, boot directory and domain, by one process on libvirt's machine.

The root that comes lies in a directory of the pool, as ``root``; ``about`` beside it says what it was made of, ``next``
the same of the root that goes, and ``domain.xml`` is the guest's definition with it. Afterwards the root that went is
there. What a root was made of is `Made` as JSON in ``made``, with its manifest and its survey.

The roots change places in one step. What is left to do after that is written down before it, so that whoever comes to
the guest next does it, should the machine go down in between. What was written down and not begun is forgotten then:
nobody gets another root without having asked for it, and months may have passed.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import asdict

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import place
from pipelines.guest.domain import Made
from pipelines.guest.guest import Guest
from pipelines.guest.place import Place
from pipelines.host import process
from pipelines.host.target import Target
from pipelines.libvirt import beside, remounting

# Lines are a word and a value. Nothing is exchanged but what the journal names by device and inode. libvirt knows of no
# lock of virtroot's, but its hook refuses a start while there is a journal. One that had passed the hook before that
# keeps its root under its name.
_FINISH = """
trap '' HUP INT TERM PIPE
journal=$1 python=$2 program=$3 domain=$4 begin=$5
shift 5
[ -e "$journal" ] || exit 0
exec 9< "$journal"
flock --timeout 120 9 || { echo "another process has locked $journal" >&2; exit 1; }
[ -e "$journal" ] || exit 0
while read -r word value; do
    case $word in
        directory) directory=$value ;;
        final) final=$value ;;
        root) root=$value ;;
        boot) boot=$value ;;
        partial_boot) partial_boot=$value ;;
        is_root) is_root=$value ;;
        is_boot) is_boot=$value ;;
        end) whole=yes ;;
    esac
done < "$journal"
if [ -z "${whole-}" ]; then rm -f -- "$journal"; exit 0; fi
is() { [ "$(stat --format='%d %i' -- "$1" 2> /dev/null)" = "$2" ]; }
exchange() { "$python" -I -c "$program" --exchange "$1" "$2"; }
# Where two directories cannot change places in one step, whoever was killed between two left one aside.
mend() {
    if [ ! -d "$2" ]; then mv -T -- "$2@aside" "$2"; elif [ ! -d "$1" ]; then mv -T -- "$2@aside" "$1"; fi
}
[ ! -d "$root@aside" ] || mend "$directory/root" "$root"
[ ! -d "$boot@aside" ] || mend "$partial_boot" "$boot"
refused() { rm -f -- "$journal"; echo "the guest runs by now" >&2; exit 1; }
if is "$directory/root" "$is_root"; then
    if [ -z "$begin" ]; then rm -f -- "$journal"; exit 0; fi
    [ "$("$@" domstate "$domain")" = 'shut off' ] || refused
    exchange "$directory/root" "$root"
    [ "$("$@" domstate "$domain")" = 'shut off' ] || { exchange "$directory/root" "$root"; refused; }
fi
if [ -f "$directory/domain.xml" ]; then
    if is "$partial_boot" "$is_boot"; then exchange "$partial_boot" "$boot"; fi
    if ! "$@" define --validate "$directory/domain.xml" >&2; then
        if [ -z "$begin" ] && [ "$("$@" domstate "$domain")" != 'shut off' ]; then exit 1; fi
        if is "$boot" "$is_boot"; then exchange "$partial_boot" "$boot"; fi
        if is "$root" "$is_root"; then exchange "$directory/root" "$root"; fi
        if [ -z "$begin" ]; then
            # It may have run on that root since.
            rm -rf -- "$directory/next" "$directory/domain.xml"
            mkdir -p -m 0700 -- "${final%/*}"
            mv -T -- "$directory" "$final"
            echo "the root that it was about to get is kept as $final" >&2
        fi
        rm -f -- "$journal"
        exit 1
    fi
    rm -f -- "$directory/domain.xml"
fi
if [ -d "$directory/next" ]; then rm -rf -- "$directory/about"; mv -T -- "$directory/next" "$directory/about"; fi
if [ "$directory" != "$final" ] && [ -d "$directory" ]; then
    mkdir -p -m 0700 -- "${final%/*}"
    mv -T -- "$directory" "$final"
fi
rm -rf -- "$partial_boot"
sync "${final%/*}"
rm -f -- "$journal"
"""

_DESCRIBE = """
umask 077
mkdir -- "$1"
cat > "$1/made"
for each in "$2" "$3"; do [ ! -f "$each" ] || cp -- "$each" "$1/"; done
"""

_WRITE_JOURNAL = """
umask 077
journal=$1 directory=$2 final=$3 root=$4 boot=$5 partial_boot=$6
sync --file-system "$directory"
{ printf '%s\\n' "directory $directory" "final $final" "root $root" "boot $boot" "partial_boot $partial_boot"
  printf 'is_root %s\\n' "$(stat --format='%d %i' -- "$directory/root")"
  printf 'is_boot %s\\n' "$(stat --format='%d %i' -- "$partial_boot")"
  echo end; } > "$journal"
sync "$journal"
"""


def describe(target: Target, directory: str, made: Made, boot: str) -> None:
    """Write to the directory ``directory`` what a root was made of; ``boot`` has its manifest and its survey."""
    argv = ["sh", "-ec", _DESCRIBE, "describe", directory, place.manifest(boot), place.pristine(boot)]
    target.run(argv, stdin=json.dumps(asdict(made)).encode())


def described(target: Target, directory: str) -> Made:
    """Return what the root was made of that ``directory`` describes."""
    return Made(**json.loads(target.run(["cat", f"{directory}/made"]).stdout))


def switch(guest: Guest, paths: Place, directory: str, final: str, definition: ET.Element, now: Made) -> None:
    """Give a guest that is off the root in ``directory``, and that directory the name ``final``; or change nothing.

    Its boot directory becomes the one that `place` calls partial. The caller holds the guest's lock. Raises
    `VirtrootError`, with all as it was, where libvirt does not take the definition, or the guest runs.
    """
    target = guest.target
    target.run(["sh", "-ec", 'cat > "$1"', "definition", f"{directory}/domain.xml"], stdin=ET.tostring(definition))
    names = (paths.switching, directory, final, guest.root, guest.boot, paths.partial_boot)
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} was started meanwhile", f"stop it: ./inv stop {guest.name}")
    with process.uninterrupted():
        for root in filter(None, (guest.lower and guest.root, now.lower and f"{directory}/root")):
            # What is mounted cannot be renamed.
            beside.unmount(target, root)
        target.run(["sh", "-ec", _WRITE_JOURNAL, "journal", *names])
        try:
            if guest.lower:
                # Should the machine go down on the way, nobody lays the new root on the old one's golden tree.
                remounting.disable(target, guest.root)
            _finish(guest, begin=True)
        except BaseException:
            # Whichever root it has by now.
            with suppress(VirtrootError):
                _remount(guests.find(guest.hypervisor, guest.name))
            raise
    if now.lower:
        beside.mount(target, guest.root, now.golden, now.lower)
        remounting.enable(target, guest.root, now.golden)


def pending(guest: Guest) -> bool:
    """Say whether a switch was cut short."""
    return guest.target.run(["test", "-e", place.of_root(guest.root).switching], check=False).returncode == 0


def finish(guest: Guest) -> None:
    """Do what a switch that was cut short had left to do, or forget one that had not begun.

    Raises `VirtrootError` where libvirt does not take it.
    """
    if not pending(guest):
        return
    _finish(guest, begin=False)
    _remount(guests.find(guest.hypervisor, guest.name))


def _remount(guest: Guest) -> None:
    if guest.lower:
        remounting.enable(guest.target, guest.root, guest.golden)


def _finish(guest: Guest, *, begin: bool) -> None:
    target, paths = guest.target, place.of_root(guest.root)
    virsh = guest.hypervisor.virsh_argv()
    argv = [paths.switching, target.python, beside.program(), guest.uuid, "yes" if begin else "", *virsh]
    done = target.run(["sh", "-ec", _FINISH, "finish", *argv], check=False)
    if done.returncode:
        raise VirtrootError(
            f"{guest.name} keeps the root that it has", "read the reason above, and try again", done.complaint
        )
