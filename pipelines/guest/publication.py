"""Makes and removes a guest as a whole: root, boot directory and domain; and clears what killed tasks left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hostdir, swap
from pipelines.guest.guest import Guest
from pipelines.host import process
from pipelines.libvirt.hypervisor import DEFINITIONS, Hypervisor
from pipelines.log import say, warn
from pipelines.pool import mount_units, place
from pipelines.pool.place import Place
from pipelines.symptom.known import TIMERS
from pipelines.target import mounts, programs, transactions
from pipelines.target.target import Target

#: Last lines of a console that are searched for stopped timers.
_CONSOLE_LINES = 1000


def publish(hypervisor: Hypervisor, paths: Place, domain_xml: str) -> None:
    """Give the partial root and boot directory their names and define the domain, or undo that and raise."""
    define = hypervisor.virsh_argv("define", "--validate", "/dev/stdin")
    root, boot = (paths.partial_root, paths.root), (paths.partial_boot, paths.boot)
    done = transactions.publish(hypervisor.target, paths.journal, root, boot, DEFINITIONS, define, domain_xml)
    if done.returncode:
        raise VirtrootError(
            f"libvirt did not accept the guest {paths.name}", "read libvirt's reason above", done.complaint
        )


def withdraw(guest: Guest) -> None:
    """Undefine the guest and delete root, snapshots, previous roots, boot directory and console log.

    The caller has asked the user. Raises `VirtrootError`, with nothing changed, if the guest runs, if libvirt keeps a
    state of it, if another domain uses its root, or if something is mounted in it.
    """
    hypervisor, target = guest.hypervisor, guest.target
    refuse_busy(guest)
    paths = place.of_root(guest.root)
    for directory in (paths.snapshots, paths.previous_roots):
        mounts.refuse(target, directory)
    renames = (
        (guest.boot, paths.partial_boot),
        (guest.root, paths.partial_root),
        (paths.snapshots, paths.partial_snapshots),
        (paths.previous_roots, paths.partial_previous_roots),
    )
    with process.defer_interrupt():
        if guest.source.lower:
            # What is mounted cannot be renamed. The next start mounts it again.
            mount_units.disable(target, guest.root)
            programs.unmount_layers(target, guest.root)
        done = transactions.withdraw(target, paths.removal, renames, guest.uuid, DEFINITIONS, hypervisor.virsh_argv())
    if done.returncode:
        if guest.source.lower:
            mount_units.enable(target, guest.root, guest.source.golden)
        raise VirtrootError(
            f"the guest {guest.name} was not removed, its root is unchanged", "read the reason above", done.complaint
        )
    mounts.delete(target, *_list_leftovers(target, paths), guest.console_log)


def start(guest: Guest, timeout: float) -> float:
    """Boot a guest whose lock is held; see `Guest.start`.

    Under software emulation the timers of a guest stop sometimes. Such a guest is ended and booted once more.
    """
    hostdir.refuse_gone(guest)
    if guest.source.lower:
        mount_units.ensure_enabled(guest.target, guest.root, guest.source.golden)
    try:
        return guest.start(timeout)
    except VirtrootError as error:
        if (
            guest.hypervisor.kvm
            or not guest.running
            or not TIMERS.pattern.search(guest.read_console_tail(_CONSOLE_LINES))
        ):
            raise
        warn(f"{error.what}; its timers stopped, which happens under software emulation; trying once more")
        guest.stop(timeout, force=True)
        return guest.start(timeout)


@contextmanager
def boot_after_failure(guest: Guest, timeout: float, *, wanted: bool) -> Iterator[None]:
    """Boot a guest that was shut down again if what is done meanwhile fails, and if this is ``wanted``."""
    try:
        yield
    except BaseException:
        if wanted:
            # An error here must not hide the first one.
            try:
                finish_interrupted(guests.get(guest.hypervisor, guest.name))
                back = guests.get(guest.hypervisor, guest.name)
                say(f"{guest.name} is up after {start(back, timeout):.1f} s, as it was")
            except VirtrootError as error:
                warn(f"{guest.name} is off: {error.what}")
        raise


def finish_interrupted(guest: Guest) -> None:
    """Finish or undo what killed tasks left of a guest, or delete it; the caller holds its lock.

    Raises `VirtrootError` if that is not possible.
    """
    target, paths = guest.target, place.of_root(guest.root)
    if not _list_leftovers(target, paths):
        return
    _wait_for_tasks(target, paths)
    _undo_removal(target, paths)
    transactions.end_publication(target, paths.journal, paths.root, paths.boot)
    if swap.finish(guest):
        guest = guests.get(guest.hypervisor, guest.name)
    if not _exists(target, guest.root):
        # What has a hidden name can be all that is left of the root.
        raise VirtrootError(
            f"the root of {guest.name}, {guest.root}, is missing",
            f"mount or restore it; it may have a hidden name: ls -A {paths.pool}",
        )
    _delete(target, *_list_leftovers(target, paths))


def has_leftovers(hypervisor: Hypervisor, paths: Place) -> bool:
    """Return whether killed tasks left something of a guest that does not exist (any more)."""
    return bool(_list_leftovers(hypervisor.target, paths))


def _undo_removal(target: Target, paths: Place) -> None:
    """Restore the names that an interrupted removal has taken from a guest whose domain is still defined."""
    done = transactions.undo_removal(target, paths.removal)
    if done.returncode:
        raise VirtrootError(
            f"a removal of {paths.name} was interrupted and cannot be undone", "read the reason above", done.complaint
        )


def refuse_busy(guest: Guest) -> None:
    """Raise `VirtrootError` if the guest cannot be removed now."""
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}")
    refuse_kept(guest)
    guest.refuse_shared_root()
    guest.refuse_mounts()


def refuse_kept(guest: Guest) -> None:
    """Raise `VirtrootError` if libvirt keeps a state of the guest, which belongs to its current root."""
    kept = guest.hypervisor.list_saved_state(guest.uuid)
    if kept:
        raise VirtrootError(
            f"libvirt keeps {kept[0]} of {guest.name}",
            f"delete that first; virsh start {guest.name} restores a saved guest, which can be stopped then",
        )


def refuse_taken(hypervisor: Hypervisor, paths: Place) -> None:
    """Raise `VirtrootError` if a domain, a root or another domain's boot directory has that name already."""
    name = paths.name
    _wait_for_tasks(hypervisor.target, paths)
    if hypervisor.find_domains_using(paths.root):
        transactions.end_publication(hypervisor.target, paths.journal, paths.root, paths.boot)
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known:
        raise VirtrootError(
            f"the guest {name} exists already ({hypervisor.state(known.uuid)})",
            f"remove it first: ./inv remove {name}; or choose another name",
        )
    for path in (paths.root, paths.boot):
        users = hypervisor.find_domains_using(path)
        if users:
            raise VirtrootError(
                f"the domain {users[0].name} uses {path}", f"choose another name, or remove {users[0].name} first"
            )
    published = transactions.find_published(hypervisor.target, paths.journal, paths.root, paths.boot)
    if _exists(hypervisor.target, paths.root) and "root" not in published:
        raise VirtrootError(f"{paths.root} exists already, but no guest {name}", "move it away or choose another name")
    for directory in (paths.snapshots, paths.previous_roots):
        if _exists(hypervisor.target, directory):
            raise VirtrootError(
                f"{directory} contains roots of a guest that was removed", "move it away or choose another name"
            )


def clear(hypervisor: Hypervisor, paths: Place) -> None:
    """Delete what killed tasks left of a guest that has no domain; the caller holds its lock.

    If a domain of any name uses the root, nothing is deleted.
    """
    target = hypervisor.target
    _wait_for_tasks(target, paths)
    if hypervisor.find_domains_using(paths.root):
        transactions.end_publication(target, paths.journal, paths.root, paths.boot)
        return
    for what in transactions.find_published(target, paths.journal, paths.root, paths.boot):
        mounts.delete(target, paths.root if what == "root" else paths.boot)
    # A boot directory without a domain is a leftover: an install under that name makes its own.
    _delete(
        target, *_list_leftovers(target, paths), *([] if hypervisor.find_domains_using(paths.boot) else [paths.boot])
    )


def delete_hidden(hypervisor: Hypervisor, paths: Place) -> None:
    """Delete what killed tasks left under hidden names; the caller holds the guest's lock.

    A root that has its name stays even without a domain and a journal, because the user may define its domain again.
    """
    target = hypervisor.target
    _wait_for_tasks(target, paths)
    owner = next((guest for guest in guests.list_guests(hypervisor) if guest.root == paths.root), None)
    if owner:
        finish_interrupted(owner)
    elif _exists(target, paths.root) and "root" not in transactions.find_published(
        target, paths.journal, paths.root, paths.boot
    ):
        if not hypervisor.find_domains_using(paths.root):
            _delete(target, *_list_leftovers(target, paths))
    else:
        clear(hypervisor, paths)


def _delete(target: Target, *stale: str) -> None:
    """Delete leftovers. A root of two layers can be mounted there."""
    for mount in mounts.points(target):
        if mount.kind == "overlay" and {mount.point, mount.point.removesuffix("/root")} & {*stale}:
            programs.unmount_layers(target, mount.point)
    mounts.delete(target, *stale)


def _wait_for_tasks(target: Target, paths: Place) -> None:
    """Wait for a publication or a removal whose task was killed."""
    journals = [paths.journal, paths.removal, paths.swap_journal]
    done = transactions.wait_for(target, journals)
    if done.returncode:
        raise VirtrootError(
            f"an earlier task still works on {paths.name}",
            f"wait for it; fuser shows which process has locked {' or '.join(journals)}",
            done.complaint,
        )


def _list_leftovers(target: Target, paths: Place) -> list[str]:
    """Return the hidden names of tasks, of killed ones too, of the guest whose lock the caller holds."""
    directories = [directory for directory, _ in paths.leftovers]
    patterns = [word for _, pattern in paths.leftovers for word in ("-o", "-name", pattern)]
    argv = ["find", *directories, "-maxdepth", "1", "(", *patterns[1:], ")", "-print0"]
    listed = target.run(argv, check=False)
    return [path for path in listed.stdout.decode(errors="surrogateescape").split("\0") if path]


def _exists(target: Target, path: str) -> bool:
    return target.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], check=False).returncode == 0
