"""A guest gets another root under its name: root, boot directory and domain, by one process on libvirt's machine.

The root that comes lies in a directory of the pool, as ``root``; ``coming`` beside it says what it was made of,
``next`` the same of the root that goes, and ``domain.xml`` is the guest's definition with it. Afterwards the root that
went is there, and ``about`` says what it was made of. What a root was made of is `Made` as JSON in ``made``, with its
manifest and its survey.

The roots change places in one step. What is left to do after that is written down before it, so that whoever comes to
the guest next does it, should the machine go down in between. What was written down and not begun is forgotten then:
nobody gets another root without having asked for it, and months may have passed. Which of the two it is, a token says:
an empty file with a random name in the root that comes. Numbers of devices and inodes do not survive a remount, and are
the same for every btrfs snapshot.
"""

from __future__ import annotations

import json
import secrets
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import asdict

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import virtiofsd_wrapper
from pipelines.guest.domain import Made, remade
from pipelines.guest.guest import Guest
from pipelines.host import process
from pipelines.libvirt import beside
from pipelines.libvirt.hypervisor import DEFINITIONS
from pipelines.pool import mount_units, place
from pipelines.pool.place import Place
from pipelines.target import durable
from pipelines.target.target import Target

# Lines are a word and a value. Nothing is exchanged but what has the token that the journal names. libvirt knows of no
# lock of virtroot's, but its hook refuses a start while there is a journal. One that had passed the hook before that
# keeps its root under its name. A journal of an earlier version has no token, but device and inode of the root that
# comes (is_root) and of its boot directory (is_boot).
_FINISH = """
trap '' HUP INT TERM PIPE
journal=$1 python=$2 program=$3 definitions=$4 domain=$5 begin=$6
shift 6
token= is_root= is_boot=
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
        token) token=$value ;;
        is_root) is_root=$value ;;
        is_boot) is_boot=$value ;;
        end) whole=yes ;;
        done) finished=yes ;;
    esac
done < "$journal"
if [ -z "${whole-}" ]; then rm -f -- "$journal"; exit 0; fi
comes() {
    if [ -n "$token" ]; then [ -f "$1/$token" ]; else [ "$(stat --format='%d %i' -- "$1" 2> /dev/null)" = "$2" ]; fi
}
is_in() { comes "$1" "$3" && ! comes "$2" "$3"; }
# Without its last word, a journal whose token is gone would leave open which root is which.
forget() {
    echo done >> "$journal" || :
    sync "$journal"
    if [ -n "$token" ]; then rm -f -- "$root/$token" "$boot/$token" "$directory/root/$token" "$partial_boot/$token"; fi
    rm -f -- "$journal"
}
if [ -n "${finished-}" ]; then forget; exit 0; fi
exchange() { "$python" -I -c "$program" --exchange "$1" "$2"; }
# Where two directories cannot change places in one step, whoever was killed between two left one aside.
mend() {
    if [ ! -d "$2" ]; then mv -T -- "$2@aside" "$2"; elif [ ! -d "$1" ]; then mv -T -- "$2@aside" "$1"; fi
}
[ ! -d "$root@aside" ] || mend "$directory/root" "$root"
[ ! -d "$boot@aside" ] || mend "$partial_boot" "$boot"
refused() { forget; echo "the guest runs by now" >&2; exit 1; }
if is_in "$directory/root" "$root" "$is_root"; then
    if [ -z "$begin" ]; then forget; exit 0; fi
    [ "$("$@" domstate "$domain")" = 'shut off' ] || refused
    exchange "$directory/root" "$root"
    [ "$("$@" domstate "$domain")" = 'shut off' ] || { exchange "$directory/root" "$root"; refused; }
    sync "${root%/*}" "$directory"
elif ! is_in "$root" "$directory/root" "$is_root"; then
    echo "neither $root nor $directory/root is for certain the root that was prepared, and nothing was changed;" \
        "put the right one at $root, then delete $journal" >&2
    exit 1
fi
if [ -f "$directory/domain.xml" ]; then
    if is_in "$partial_boot" "$boot" "$is_boot"; then exchange "$partial_boot" "$boot"; fi
    if ! "$@" define --validate "$directory/domain.xml" >&2; then
        if [ -z "$begin" ] && [ "$("$@" domstate "$domain")" != 'shut off' ]; then exit 1; fi
        if is_in "$boot" "$partial_boot" "$is_boot"; then exchange "$partial_boot" "$boot"; fi
        exchange "$directory/root" "$root"
        if [ -z "$begin" ]; then
            # It may have run on that root since.
            rm -rf -- "$directory/next" "$directory/domain.xml" "$directory/coming"
            mkdir -p -m 0700 -- "${final%/*}"
            mv -T -- "$directory" "$final"
            directory=$final
            echo "the root that it was about to get is kept as $final" >&2
        fi
        forget
        exit 1
    fi
    [ ! -d "$definitions" ] || sync "$definitions"
    rm -f -- "$directory/domain.xml" "$directory/coming"
fi
if [ -d "$directory/next" ]; then rm -rf -- "$directory/about"; mv -T -- "$directory/next" "$directory/about"; fi
if [ "$directory" != "$final" ] && [ -d "$directory" ]; then
    mkdir -p -m 0700 -- "${final%/*}"
    mv -T -- "$directory" "$final"
fi
rm -rf -- "$partial_boot"
sync "${final%/*}" "${root%/*}" "${boot%/*}"
forget
"""

_DESCRIBE = """
umask 077
mkdir -- "$1"
cat > "$1/made"
for each in "$2" "$3"; do [ ! -f "$each" ] || cp -- "$each" "$1/"; done
"""

# The boot directory of the root that comes, under its hidden name or in its place already.
_COMING_BOOT = """
value() { sed -n "s/^$1 //p" "$journal"; }
journal=$1
if [ -f "$(value partial_boot)/$(value token)" ]; then value partial_boot; else echo "$2"; fi
"""

# What is to change places is on the disk before the journal says so.
_WRITE_JOURNAL = """
umask 077
journal=$1 directory=$2 final=$3 root=$4 boot=$5 partial_boot=$6 token=$7
# A switch that was killed before it had a journal may have left one.
find "$directory/root" -maxdepth 1 -type f -size 0 -name '.virtroot-????????????????' -delete
: > "$directory/root/$token"
: > "$partial_boot/$token"
sync --file-system "$directory"
sync --file-system "$partial_boot"
printf '%s\\n' "directory $directory" "final $final" "root $root" "boot $boot" "partial_boot $partial_boot" \\
    "token $token" end > "$journal" && sync "$journal" "${journal%/*}" || { rm -f -- "$journal"; exit 1; }
"""


def new_token() -> str:
    """Return the name of a file that tells one directory from every other one."""
    return f".virtroot-{secrets.token_hex(8)}"


def describe(target: Target, directory: str, made: Made, boot: str) -> None:
    """Write to the directory ``directory`` what a root was made of; ``boot`` has its manifest and its survey."""
    argv = ["sh", "-ec", _DESCRIBE, "describe", directory, place.manifest(boot), place.pristine(boot)]
    target.run(argv, stdin=json.dumps(asdict(made)).encode())


def described(target: Target, directory: str) -> Made:
    """Return what the root was made of that ``directory`` describes; raises `VirtrootError` for a damaged record."""
    try:
        return Made(**json.loads(target.run(["cat", f"{directory}/made"]).stdout))
    except (ValueError, TypeError) as error:
        raise VirtrootError(f"{directory}/made is damaged", "delete the former root that it describes") from error


def switch(guest: Guest, paths: Place, directory: str, final: str, definition: ET.Element, now: Made) -> None:
    """Give a guest that is off the root in ``directory``, and that directory the name ``final``; or change nothing.

    Its boot directory becomes the one that `place` calls partial. The caller holds the guest's lock. Raises
    `VirtrootError`, with all as it was, where libvirt does not take the definition, or the guest runs.
    """
    target = guest.target
    durable.put(target, f"{directory}/coming", json.dumps(asdict(now)).encode(), 0o600)
    durable.put(target, f"{directory}/domain.xml", ET.tostring(definition), 0o600)
    names = (paths.switching, directory, final, guest.root, guest.boot, paths.partial_boot, new_token())
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} was started meanwhile", f"stop it: ./inv stop {guest.name}")
    with process.defer_interrupt():
        for root in filter(None, (guest.lower and guest.root, now.lower and f"{directory}/root")):
            # What is mounted cannot be renamed.
            beside.unmount(target, root)
        target.run(["sh", "-ec", _WRITE_JOURNAL, "journal", *names])
        try:
            if guest.lower:
                # Should the machine go down on the way, nobody lays the new root on the old one's golden tree.
                mount_units.disable(target, guest.root)
            _finish(guest, begin=True)
        except BaseException:
            # Whichever root it has by now.
            with suppress(VirtrootError):
                _remount(guests.find(guest.hypervisor, guest.name))
            raise
    if now.lower:
        beside.mount(target, guest.root, now.golden, now.lower)
        mount_units.enable(target, guest.root, now.golden)


def pending(guest: Guest) -> bool:
    """Say whether a switch was cut short."""
    return guest.target.run(["test", "-e", place.of_root(guest.root).switching], check=False).returncode == 0


def finish(guest: Guest) -> bool:
    """Do what a switch that was cut short had left to do, or forget one that had not begun; say whether there was one.

    Raises `VirtrootError` where libvirt does not take it, and where nobody can say which root is which.
    """
    if not pending(guest):
        return False
    _renew_definition(guest)
    _finish(guest, begin=False)
    _remount(guests.find(guest.hypervisor, guest.name))
    return True


def _renew_definition(guest: Guest) -> None:
    """Write the definition that the guest is about to get again, from the one that it has by now.

    The saved one is as old as the switch: what was changed in the domain since would be lost with it.
    """
    target, journal = guest.target, place.of_root(guest.root).switching
    directory = target.run(["sed", "-n", "s/^directory //p", journal], check=False).text
    coming = target.run(["sh", "-c", '[ -f "$1/domain.xml" ] && cat -- "$1/coming"', "coming", directory], check=False)
    definition = None if coming.returncode else guest.hypervisor.xml(guest.uuid)
    if definition is not None:
        remade(definition, guest.boot, Made(**json.loads(coming.stdout)))
        boot = target.run(["sh", "-c", _COMING_BOOT, "boot", journal, guest.boot]).text
        virtiofsd_wrapper.update(definition, beside.kernel_release(target, boot))
        virtiofsd_wrapper.install(target, definition)
        durable.put(target, f"{directory}/domain.xml", ET.tostring(definition), 0o600)


def _remount(guest: Guest) -> None:
    if guest.lower:
        mount_units.enable(guest.target, guest.root, guest.golden)


def _finish(guest: Guest, *, begin: bool) -> None:
    target, paths = guest.target, place.of_root(guest.root)
    virsh = guest.hypervisor.virsh_argv()
    program = beside.program()
    argv = [paths.switching, target.python, program, DEFINITIONS, guest.uuid, "yes" if begin else "", *virsh]
    done = target.run(["sh", "-ec", _FINISH, "finish", *argv], check=False)
    if done.returncode:
        raise VirtrootError(
            f"{guest.name} keeps the root that it has", "read the reason above, and try again", done.complaint
        )
