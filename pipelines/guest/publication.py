"""A guest appears and disappears whole: root, boot directory and domain, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hostdir, place, switching
from pipelines.guest.guest import Guest
from pipelines.guest.place import Place
from pipelines.host import mounts, process
from pipelines.host.target import Target
from pipelines.libvirt import beside, remounting
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, warn
from pipelines.symptom.known import TIMERS

# One process on libvirt's machine publishes everything or takes it back: a task killed meanwhile changes nothing. Only
# when it dies with its machine does the journal matter. It tells the directories by what nothing restored in their
# place shares with them: device, inode and time of birth. It is locked as long as that process lives, since a task that
# is killed leaves it at work.
_PUBLISH = """
trap '' HUP INT TERM PIPE
partial_root=$1 root=$2 partial_boot=$3 boot=$4 journal=$5
shift 5
umask 077
exec 9> "$journal"
flock --timeout 120 9 || { echo "another process has locked $journal" >&2; exit 1; }
{ printf 'root %s\\n' "$(TZ=UTC stat --format='%d %i %w' "$partial_root")"
  printf 'boot %s\\n' "$(TZ=UTC stat --format='%d %i %w' "$partial_boot")"; } >&9
sync "$journal"
mv -T -- "$partial_root" "$root"
if mv -T -- "$partial_boot" "$boot"; then
    if "$@" >&2; then rm -f -- "$journal"; sync "${journal%/*}"; exit 0; fi
    mv -T -- "$boot" "$partial_boot"
fi
mv -T -- "$root" "$partial_root"
rm -f -- "$journal"
exit 1
"""

# Without a kernel in its place the guest cannot be started any more, so what it is doing then is what it does.
_WITHDRAW = """
trap '' HUP INT TERM PIPE
root=$1 partial_root=$2 boot=$3 partial_boot=$4 snapshots=$5 partial_snapshots=$6 formers=$7 partial_formers=$8
shift 8
domain=$1
shift
undo() {
    [ ! -d "$partial_boot" ] || mv -T -- "$partial_boot" "$boot"
    [ ! -d "$partial_root" ] || mv -T -- "$partial_root" "$root"
    [ ! -d "$partial_snapshots" ] || mv -T -- "$partial_snapshots" "$snapshots"
    [ ! -d "$partial_formers" ] || mv -T -- "$partial_formers" "$formers"
    exit 1
}
if [ -d "$boot" ]; then mv -T -- "$boot" "$partial_boot" || undo; fi
if [ -d "$root" ]; then mv -T -- "$root" "$partial_root" || undo; fi
if [ -d "$snapshots" ]; then mv -T -- "$snapshots" "$partial_snapshots" || undo; fi
if [ -d "$formers" ]; then mv -T -- "$formers" "$partial_formers" || undo; fi
[ "$("$@" domstate "$domain")" = 'shut off' ] || { echo "the guest runs by now" >&2; undo; }
"$@" undefine "$domain" >&2 || undo
"""


#: Last lines of a console that are searched for stopped timers.
_CONSOLE_LINES = 1000


def publish(hypervisor: Hypervisor, paths: Place, domain_xml: str) -> None:
    """Give the partial root and boot directory their names and define the domain, or undo that and raise."""
    renames = (paths.partial_root, paths.root, paths.partial_boot, paths.boot, paths.journal)
    define = hypervisor.virsh_argv("define", "--validate", "/dev/stdin")
    script = ["sh", "-ec", _PUBLISH, "publish", *renames, *define]
    with process.uninterrupted():
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
    renames = (*tree, *boot, paths.snapshots, paths.partial_snapshots, paths.formers, paths.partial_formers)
    script = ["sh", "-c", _WITHDRAW, "withdraw", *renames, guest.uuid, *hypervisor.virsh_argv()]
    with process.uninterrupted():
        if guest.lower:
            # What is mounted cannot be renamed; a start mounts it anew.
            remounting.disable(target, guest.root)
            beside.unmount(target, guest.root)
        done = target.run(script, check=False)
    if done.returncode:
        if guest.lower:
            remounting.enable(target, guest.root, guest.golden)
        raise VirtrootError(
            f"the guest {guest.name} was not removed, its root is untouched", "read the reason above", done.complaint
        )
    mounts.delete(target, *_leftovers(target, paths), guest.console_log)


def start(guest: Guest, timeout: float) -> float:
    """Boot a guest, which is whole then; see `Guest.start`.

    One whose timers stop, as they do now and then under software emulation, is ended and booted once more.
    """
    settled(guest.hypervisor, place.of_root(guest.root))
    if switching.pending(guest):
        tidy(guest)
        guest = guests.find(guest.hypervisor, guest.name)
    hostdir.refuse_gone(guest)
    if guest.lower:
        remounting.ensure(guest.target, guest.root, guest.golden)
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
            back = guests.find(guest.hypervisor, guest.name)
            say(f"{guest.name} is up after {start(back, timeout):.1f} s, as it was")
        raise


def tidy(guest: Guest) -> None:
    """Finish or delete what killed tasks left of a guest that is whole; the caller holds its lock."""
    paths = place.of_root(guest.root)
    settled(guest.hypervisor, paths)
    switching.finish(guest)
    _delete(guest.target, *_leftovers(guest.target, paths))


def left(hypervisor: Hypervisor, paths: Place) -> bool:
    """Say whether killed tasks left something of a guest that is not there (any more)."""
    return bool(_leftovers(hypervisor.target, paths))


def settled(hypervisor: Hypervisor, paths: Place) -> None:
    """Take away the journal of a guest that is whole: it would vouch for the root once the domain is undefined."""
    _settle(hypervisor.target, paths)
    hypervisor.target.run(["rm", "-f", "--", paths.journal])


def refuse_busy(guest: Guest) -> None:
    """Raise `VirtrootError` where the guest cannot be removed now."""
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}")
    kept = guest.hypervisor.holds(guest.uuid)
    if kept:
        raise VirtrootError(
            f"libvirt keeps {kept[0]} of {guest.name}", "delete that first: it would not let the domain go"
        )
    guest.refuse_shared_root()
    guest.refuse_mounts()


def refuse_taken(hypervisor: Hypervisor, paths: Place) -> None:
    """Raise `VirtrootError` where there is a domain, a root or another domain's boot directory of that name already."""
    name = paths.name
    _settle(hypervisor.target, paths)
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known:
        settled(hypervisor, paths)
        raise VirtrootError(
            f"there is a guest {name} already ({hypervisor.state(known.uuid)})",
            f"remove it first: ./inv remove {name}; or choose another name",
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
    for path in (paths.root, paths.boot):
        users = hypervisor.naming(path)
        if users:
            raise VirtrootError(
                f"the domain {users[0].name} uses {path}", f"choose another name, or remove {users[0].name} first"
            )


def clear(hypervisor: Hypervisor, paths: Place) -> None:
    """Remove what killed tasks left of this guest, unless there is one by now; the caller holds its lock."""
    target = hypervisor.target
    _settle(target, paths)
    if hypervisor.defined(paths.name):
        settled(hypervisor, paths)
        return
    for what in _journal(target, paths):
        mounts.delete(target, paths.root if what == "root" else paths.boot)
    # Kernels without a domain are nobody's: an installation under that name is about to bring its own.
    _delete(target, *_leftovers(target, paths), *([] if hypervisor.naming(paths.boot) else [paths.boot]))


def sweep(hypervisor: Hypervisor, paths: Place) -> None:
    """Remove what killed tasks left under hidden names; the caller holds the guest's lock.

    Beside a root that is nobody's, and that no task vouches for, what has a name stays: somebody may define its domain.
    """
    target = hypervisor.target
    _settle(target, paths)
    if hypervisor.defined(paths.name):
        tidy(guests.find(hypervisor, paths.name))
    elif _exists(target, paths.root) and "root" not in _journal(target, paths):
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
    """Wait for a publication that a killed task left at work."""
    script = 'if [ -e "$1" ]; then exec flock --timeout 120 "$1" true; fi'
    if target.run(["sh", "-c", script, "settle", paths.journal], check=False).returncode:
        raise VirtrootError(
            f"an earlier install of {paths.name} is still at work", "wait for it; see what holds " + paths.journal
        )


def _leftovers(target: Target, paths: Place) -> list[str]:
    """Return what tasks have under way, or killed ones left, of the guest whose lock the caller holds."""
    found: list[str] = []
    for directory, pattern in paths.leftovers:
        listed = target.run(["find", directory, "-maxdepth", "1", "-name", pattern, "-print0"], check=False)
        found += [path for path in listed.stdout.decode(errors="surrogateescape").split("\0") if path]
    return found


def _journal(target: Target, paths: Place) -> list[str]:
    """Return which of ``root`` and ``boot`` a publication that was cut short has made, and which are still those."""
    script = (
        "while read -r what is; do case $what in root) path=$2 ;; *) path=$3 ;; esac; "
        'if [ "$(TZ=UTC stat --format="%d %i %w" "$path" 2>/dev/null)" = "$is" ]; then echo "$what"; fi; done < "$1"'
    )
    argv = ["sh", "-c", script, "journal", paths.journal, paths.root, paths.boot]
    return target.run(argv, check=False).text.split()


def _exists(target: Target, path: str) -> bool:
    return target.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], check=False).returncode == 0
