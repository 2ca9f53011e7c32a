"""A guest appears and disappears whole: root, boot directory and domain, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hostdir, swap
from pipelines.guest.guest import Guest
from pipelines.host import process
from pipelines.libvirt import beside
from pipelines.libvirt.hypervisor import DEFINITIONS, Hypervisor
from pipelines.log import say, warn
from pipelines.pool import mount_units, place
from pipelines.pool.place import Place
from pipelines.symptom.known import TIMERS
from pipelines.target import mounts
from pipelines.target.target import Target
from pipelines.text import split_lines

# One process on libvirt's machine publishes everything or takes it back: a task killed meanwhile changes nothing. Only
# when it dies with its machine does the journal matter. What is published is flushed first: a domain that libvirt has
# written down must not name a root whose files are empty after a power loss. The journal names both directories by a
# token, an empty file with a random name in them: numbers of devices change when a pool is mounted again, and those of
# inodes and times of birth are the same in every btrfs snapshot. The journal is locked as long as that process lives,
# since a task that is killed leaves it at work.
_PUBLISH = """
trap '' HUP INT TERM PIPE
partial_root=$1 root=$2 partial_boot=$3 boot=$4 journal=$5 token=$6 definitions=$7
shift 7
umask 077
exec 9> "$journal"
flock --timeout 120 9 || { echo "another process has locked $journal" >&2; exit 1; }
: > "$partial_root/$token"
: > "$partial_boot/$token"
sync --file-system "$partial_root"
sync --file-system "$partial_boot"
echo "token $token" >&9
sync "$journal" "${journal%/*}"
mv -T -- "$partial_root" "$root"
if mv -T -- "$partial_boot" "$boot"; then
    sync "${root%/*}" "${boot%/*}"
    if "$@" >&2; then
        [ ! -d "$definitions" ] || sync "$definitions"
        rm -f -- "$root/$token" "$boot/$token" "$journal"
        sync "${journal%/*}"
        exit 0
    fi
    mv -T -- "$boot" "$partial_boot"
fi
mv -T -- "$root" "$partial_root"
rm -f -- "$journal"
exit 1
"""

# The names in a journal of a removal are lines, each followed by what it became. One that something else has by now is
# left alone. A journal without its last line was never acted on.
_GIVE_BACK = """
give_back() {
    if [ "$(tail -n 1 "$1")" = end ]; then
        while read -r name && [ "$name" != end ] && read -r hidden; do
            if [ -d "$hidden" ] && [ ! -e "$name" ]; then mv -T -- "$hidden" "$name" || return 1; fi
        done < "$1"
        sync "${1%/*}" || return 1
    fi
    rm -f -- "$1"
}
"""

_UNDO_REMOVAL = f"""{_GIVE_BACK}
give_back "$1"
"""

# Without a kernel in its place the guest cannot be started any more, so what it is doing then is what it does. Until
# libvirt's directory without the definition is on the disk, the journal says how all names are given back.
_WITHDRAW = f"""{_GIVE_BACK}
trap '' HUP INT TERM PIPE
journal=$1 domain=$2 definitions=$3 boots=$4
shift 4
undo() {{ give_back "$journal"; exit 1; }}
umask 077
exec 9> "$journal" || exit 1
flock --timeout 120 9 || {{ echo "another process has locked $journal" >&2; exit 1; }}
printf '%s\\n' "$1" "$2" "$3" "$4" "$5" "$6" "$7" "$8" end >&9 && sync "$journal" "${{journal%/*}}" || undo
shift 8
while read -r name && [ "$name" != end ] && read -r hidden; do
    if [ -d "$name" ]; then mv -T -- "$name" "$hidden" || undo; fi
done < "$journal"
sync "${{journal%/*}}" "$boots" || undo
[ "$("$@" domstate "$domain")" = 'shut off' ] || {{ echo "the guest runs by now" >&2; undo; }}
"$@" undefine "$domain" >&2 || undo
[ ! -d "$definitions" ] || sync "$definitions"
rm -f -- "$journal"
"""

#: Last lines of a console that are searched for stopped timers.
_CONSOLE_LINES = 1000


def publish(hypervisor: Hypervisor, paths: Place, domain_xml: str) -> None:
    """Give the partial root and boot directory their names and define the domain, or undo that and raise."""
    names = (paths.partial_root, paths.root, paths.partial_boot, paths.boot, paths.journal, swap.new_token())
    define = hypervisor.virsh_argv("define", "--validate", "/dev/stdin")
    script = ["sh", "-ec", _PUBLISH, "publish", *names, DEFINITIONS, *define]
    with process.defer_interrupt():
        done = hypervisor.target.run(script, stdin=domain_xml.encode(), check=False)
    if done.returncode:
        raise VirtrootError(
            f"libvirt did not take the guest {paths.name}", "read libvirt's reason above", done.complaint
        )


def withdraw(guest: Guest) -> None:
    """Undefine the guest and delete root, snapshots, former roots, boot directory and console's log.

    The caller asked first.

    Raises `VirtrootError`, with nothing changed, where the guest runs, where libvirt keeps something of it, where its
    root is another domain's too, or where something is mounted in it.
    """
    hypervisor, target = guest.hypervisor, guest.target
    refuse_busy(guest)
    paths = place.of_root(guest.root)
    for directory in (paths.snapshots, paths.formers):
        mounts.refuse(target, directory)
    tree, boot = (guest.root, paths.partial_root), (guest.boot, paths.partial_boot)
    renames = (*boot, *tree, paths.snapshots, paths.partial_snapshots, paths.formers, paths.partial_formers)
    names = (paths.removal, guest.uuid, DEFINITIONS, place.BOOT, *renames)
    script = ["sh", "-c", _WITHDRAW, "withdraw", *names, *hypervisor.virsh_argv()]
    with process.defer_interrupt():
        if guest.lower:
            # What is mounted cannot be renamed; a start mounts it anew.
            mount_units.disable(target, guest.root)
            beside.unmount(target, guest.root)
        done = target.run(script, check=False)
    if done.returncode:
        if guest.lower:
            mount_units.enable(target, guest.root, guest.golden)
        raise VirtrootError(
            f"the guest {guest.name} was not removed, its root is untouched", "read the reason above", done.complaint
        )
    mounts.delete(target, *_leftovers(target, paths), guest.console_log)


def start(guest: Guest, timeout: float) -> float:
    """Boot a guest that `hold.hold` yielded; see `Guest.start`.

    One whose timers stop, as they do now and then under software emulation, is ended and booted once more.
    """
    hostdir.refuse_gone(guest)
    if guest.lower:
        mount_units.ensure(guest.target, guest.root, guest.golden)
    try:
        return guest.start(timeout)
    except VirtrootError as error:
        if guest.hypervisor.kvm or not guest.running or not TIMERS.pattern.search(guest.console_tail(_CONSOLE_LINES)):
            raise
        warn(f"{error.what}; its timers stopped, as software emulation has it now and then: once more")
        guest.stop(timeout, force=True)
        return guest.start(timeout)


@contextmanager
def up_again(guest: Guest, timeout: float, *, wanted: bool) -> Iterator[None]:
    """Boot a guest that was shut down for what is done inside, where that fails and this is ``wanted``."""
    try:
        yield
    except BaseException:
        if wanted:
            # Nothing hides why it failed.
            try:
                tidy(guests.find(guest.hypervisor, guest.name))
                back = guests.find(guest.hypervisor, guest.name)
                say(f"{guest.name} is up after {start(back, timeout):.1f} s, as it was")
            except VirtrootError as error:
                warn(f"{guest.name} is off: {error.what}")
        raise


def tidy(guest: Guest) -> None:
    """Finish, undo or delete what killed tasks left of a guest; the caller holds its lock.

    Raises `VirtrootError` where that is not possible.
    """
    target, paths = guest.target, place.of_root(guest.root)
    if not _leftovers(target, paths):
        return
    _settle(target, paths)
    _undo_removal(target, paths)
    _end_publication(target, paths)
    if swap.finish(guest):
        guest = guests.find(guest.hypervisor, guest.name)
    if not _exists(target, guest.root):
        # What is hidden may be all that there is of it.
        raise VirtrootError(
            f"the root of {guest.name}, {guest.root}, is missing",
            f"mount or restore it; look for what has a hidden name: ls -A {paths.pool}",
        )
    _delete(target, *_leftovers(target, paths))


def left(hypervisor: Hypervisor, paths: Place) -> bool:
    """Say whether killed tasks left something of a guest that is not there (any more)."""
    return bool(_leftovers(hypervisor.target, paths))


def _undo_removal(target: Target, paths: Place) -> None:
    """Give back the names that a removal has taken from a guest whose domain is still defined."""
    if not _exists(target, paths.removal):
        return
    done = target.run(["sh", "-c", _UNDO_REMOVAL, "undo", paths.removal], check=False)
    if done.returncode:
        raise VirtrootError(
            f"a removal of {paths.name} was cut short and cannot be undone", "read the reason above", done.complaint
        )


def _end_publication(target: Target, paths: Place) -> None:
    """Delete the journal of a guest that is defined, and its token.

    Otherwise, if someone undefines the domain, the next install would take its root for a leftover and delete it.
    """
    script = """
    while read -r what is; do
        if [ "$what" = token ]; then rm -f -- "$2/$is" "$3/$is"; fi
    done < "$1"
    rm -f -- "$1"
    """
    if _exists(target, paths.journal):
        target.run(["sh", "-c", script, "end", paths.journal, paths.root, paths.boot])


def refuse_busy(guest: Guest) -> None:
    """Raise `VirtrootError` where the guest cannot be removed now."""
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}")
    refuse_kept(guest)
    guest.refuse_shared_root()
    guest.refuse_mounts()


def refuse_kept(guest: Guest) -> None:
    """Raise `VirtrootError` where libvirt keeps a state of the guest, which belongs to the root that it has now."""
    kept = guest.hypervisor.holds(guest.uuid)
    if kept:
        raise VirtrootError(
            f"libvirt keeps {kept[0]} of {guest.name}",
            f"delete that first; a saved guest goes on by virsh start {guest.name}, and can be stopped then",
        )


def refuse_taken(hypervisor: Hypervisor, paths: Place) -> None:
    """Raise `VirtrootError` where there is a domain, a root or another domain's boot directory of that name already."""
    name = paths.name
    _settle(hypervisor.target, paths)
    if hypervisor.naming(paths.root):
        _end_publication(hypervisor.target, paths)
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known:
        raise VirtrootError(
            f"there is a guest {name} already ({hypervisor.state(known.uuid)})",
            f"remove it first: ./inv remove {name}; or choose another name",
        )
    for path in (paths.root, paths.boot):
        users = hypervisor.naming(path)
        if users:
            raise VirtrootError(
                f"the domain {users[0].name} uses {path}", f"choose another name, or remove {users[0].name} first"
            )
    journal = _journal(hypervisor.target, paths)
    if _exists(hypervisor.target, paths.root) and "root" not in journal:
        raise VirtrootError(
            f"{paths.root} exists already, and no guest {name} goes with it", "move it away or choose another name"
        )
    for directory in (paths.snapshots, paths.formers):
        if _exists(hypervisor.target, directory):
            raise VirtrootError(
                f"{directory} holds roots of a guest that is gone", "move it away or choose another name"
            )


def clear(hypervisor: Hypervisor, paths: Place) -> None:
    """Remove what killed tasks left of a guest that no domain is defined for; the caller holds its lock.

    A domain that names the root, under whatever name, is left alone with all that is hidden beside it.
    """
    target = hypervisor.target
    _settle(target, paths)
    if hypervisor.naming(paths.root):
        _end_publication(target, paths)
        return
    for what in _journal(target, paths):
        mounts.delete(target, paths.root if what == "root" else paths.boot)
    # Kernels without a domain are nobody's: an installation under that name is about to bring its own.
    _delete(target, *_leftovers(target, paths), *([] if hypervisor.naming(paths.boot) else [paths.boot]))


def sweep(hypervisor: Hypervisor, paths: Place) -> None:
    """Remove what killed tasks left under hidden names; the caller holds the guest's lock.

    Where a root has its name, and neither a domain nor a journal claims it, that root stays: somebody may define its
    domain.
    """
    target = hypervisor.target
    _settle(target, paths)
    owner = next((guest for guest in guests.every(hypervisor) if guest.root == paths.root), None)
    if owner:
        tidy(owner)
    elif _exists(target, paths.root) and "root" not in _journal(target, paths):
        if not hypervisor.naming(paths.root):
            _delete(target, *_leftovers(target, paths))
    else:
        clear(hypervisor, paths)


def _delete(target: Target, *stale: str) -> None:
    """Delete what is nobody's; a root of two layers may be mounted there, or in it."""
    for path, kind in mounts.points(target):
        if kind == "overlay" and {path, path.removesuffix("/root")} & {*stale}:
            beside.unmount(target, path)
    mounts.delete(target, *stale)


def _settle(target: Target, paths: Place) -> None:
    """Wait for a publication or a removal that a killed task left at work."""
    script = 'for each do if [ -e "$each" ]; then flock --timeout 120 "$each" true || exit 1; fi; done'
    journals = [paths.journal, paths.removal]
    if target.run(["sh", "-c", script, "settle", *journals], check=False).returncode:
        raise VirtrootError(
            f"an earlier task is still at work on {paths.name}",
            f"wait for it; see what holds {' or '.join(journals)}",
        )


def _leftovers(target: Target, paths: Place) -> list[str]:
    """Return what tasks have under way, or killed ones left, of the guest whose lock the caller holds."""
    directories = [directory for directory, _ in paths.leftovers]
    patterns = [word for _, pattern in paths.leftovers for word in ("-o", "-name", pattern)]
    argv = ["find", *directories, "-maxdepth", "1", "(", *patterns[1:], ")", "-print0"]
    listed = target.run(argv, check=False)
    return [path for path in listed.stdout.decode(errors="surrogateescape").split("\0") if path]


def _journal(target: Target, paths: Place) -> list[str]:
    """Return which of ``root`` and ``boot`` a publication that was cut short has made, and which are still those.

    A journal of an earlier version names them by device, inode and time of birth.
    """
    script = """
    while read -r what is; do
        case $what in
            token)
                [ ! -e "$2/$is" ] || echo root
                [ ! -e "$3/$is" ] || echo boot
                continue ;;
            root) path=$2 ;;
            *) path=$3 ;;
        esac
        if [ "$(TZ=UTC stat --format="%d %i %w" "$path" 2>/dev/null)" = "$is" ]; then echo "$what"; fi
    done < "$1"
    """
    argv = ["sh", "-c", script, "journal", paths.journal, paths.root, paths.boot]
    return split_lines(target.run(argv, check=False).text)


def _exists(target: Target, path: str) -> bool:
    return target.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], check=False).returncode == 0
