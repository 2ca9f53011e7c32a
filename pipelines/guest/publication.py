"""A guest appears and disappears whole: root, boot directory and domain, all or none."""

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
    renames = (
        (guest.boot, paths.partial_boot),
        (guest.root, paths.partial_root),
        (paths.snapshots, paths.partial_snapshots),
        (paths.formers, paths.partial_formers),
    )
    with process.uninterrupted():
        if guest.lower:
            # What is mounted cannot be renamed. The next start mounts it again.
            mount_units.disable(target, guest.root)
            programs.unmount_layers(target, guest.root)
        done = transactions.withdraw(target, paths.removal, renames, guest.uuid, DEFINITIONS, hypervisor.virsh_argv())
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
        mount_units.ensure_enabled(guest.target, guest.root, guest.golden)
    try:
        return guest.start(timeout)
    except VirtrootError as error:
        if (
            guest.hypervisor.kvm
            or not guest.running
            or not TIMERS.pattern.search(guest.read_console_tail(_CONSOLE_LINES))
        ):
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
                tidy(guests.get(guest.hypervisor, guest.name))
                back = guests.get(guest.hypervisor, guest.name)
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
    transactions.end_publication(target, paths.journal, paths.root, paths.boot)
    if swap.finish(guest):
        guest = guests.get(guest.hypervisor, guest.name)
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
    """Restore the names that an interrupted removal has taken from a guest whose domain is still defined."""
    done = transactions.undo_removal(target, paths.removal)
    if done.returncode:
        raise VirtrootError(
            f"a removal of {paths.name} was interrupted and cannot be undone", "read the reason above", done.complaint
        )


def refuse_busy(guest: Guest) -> None:
    """Raise `VirtrootError` where the guest cannot be removed now."""
    if guest.running:
        raise VirtrootError(f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}")
    refuse_kept(guest)
    guest.refuse_shared_root()
    guest.refuse_mounts()


def refuse_kept(guest: Guest) -> None:
    """Raise `VirtrootError` where libvirt keeps a state of the guest, which belongs to the root that it has now."""
    kept = guest.hypervisor.list_saved_state(guest.uuid)
    if kept:
        raise VirtrootError(
            f"libvirt keeps {kept[0]} of {guest.name}",
            f"delete that first; a saved guest goes on by virsh start {guest.name}, and can be stopped then",
        )


def refuse_taken(hypervisor: Hypervisor, paths: Place) -> None:
    """Raise `VirtrootError` where there is a domain, a root or another domain's boot directory of that name already."""
    name = paths.name
    _settle(hypervisor.target, paths)
    if hypervisor.find_domains_using(paths.root):
        transactions.end_publication(hypervisor.target, paths.journal, paths.root, paths.boot)
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known:
        raise VirtrootError(
            f"there is a guest {name} already ({hypervisor.state(known.uuid)})",
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
    if hypervisor.find_domains_using(paths.root):
        transactions.end_publication(target, paths.journal, paths.root, paths.boot)
        return
    for what in transactions.find_published(target, paths.journal, paths.root, paths.boot):
        mounts.delete(target, paths.root if what == "root" else paths.boot)
    # Kernels without a domain are nobody's: an installation under that name is about to bring its own.
    _delete(target, *_leftovers(target, paths), *([] if hypervisor.find_domains_using(paths.boot) else [paths.boot]))


def sweep(hypervisor: Hypervisor, paths: Place) -> None:
    """Remove what killed tasks left under hidden names; the caller holds the guest's lock.

    Where a root has its name, and neither a domain nor a journal claims it, that root stays: somebody may define its
    domain.
    """
    target = hypervisor.target
    _settle(target, paths)
    owner = next((guest for guest in guests.list_guests(hypervisor) if guest.root == paths.root), None)
    if owner:
        tidy(owner)
    elif _exists(target, paths.root) and "root" not in transactions.find_published(
        target, paths.journal, paths.root, paths.boot
    ):
        if not hypervisor.find_domains_using(paths.root):
            _delete(target, *_leftovers(target, paths))
    else:
        clear(hypervisor, paths)


def _delete(target: Target, *stale: str) -> None:
    """Delete what is nobody's; a root of two layers may be mounted there, or in it."""
    for mount in mounts.points(target):
        if mount.kind == "overlay" and {mount.point, mount.point.removesuffix("/root")} & {*stale}:
            programs.unmount_layers(target, mount.point)
    mounts.delete(target, *stale)


def _settle(target: Target, paths: Place) -> None:
    """Wait for a publication or a removal that a killed task left at work."""
    journals = [paths.journal, paths.removal]
    if transactions.wait_for(target, journals).returncode:
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


def _exists(target: Target, path: str) -> bool:
    return target.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], check=False).returncode == 0
