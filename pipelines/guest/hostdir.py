"""Which directories of libvirt's machine a guest may share, and how a share's name or path becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import warn
from pipelines.pool import exposure, place, pool
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ShareSpec
from pipelines.target import mounts
from pipelines.target.target import Target
from pipelines.text import split_fields

#: libvirt's first version whose virtiofs devices can be read-only.
_READONLY_SINCE = (11, 0)

_THE_POOL, _ANOTHER_POOL = "the pool", "a pool of libvirt's"

#: What the host itself runs from, or keeps its secrets in: whoever writes there is root on it.
_HOSTS_OWN = (
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var/lib/apt", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/dpkg",
    "/var/lib/libvirt", "/var/lib/machines", "/var/lib/pacman", "/var/lib/private", "/var/lib/sudo",
    "/var/lib/systemd", "/var/log", "/var/spool/cron",
)  # fmt: skip

#: What the guest is called that has none of these shares yet.
_THIS = "this guest"

#: Seconds that counting a share's blocks may take.
_COUNTING = "10"

# By device and inode a directory is the same whatever it is mounted as.
_RESOLVE = """
for path do
    real=$(realpath -m -- "$path"; echo .)
    real=${real%??}
    printf '%s\\0%s\\0' "$(stat --format=%d:%i -- "$real" 2>/dev/null)" "$real"
done
"""


def find(hypervisor: Hypervisor, directory: str, wanted: Sequence[ShareSpec], *, of: str = "") -> tuple[Share, ...]:
    """Return what the shares ``wanted`` are on libvirt's machine, whose pool is ``directory``; nothing is made yet.

    ``of`` is the UUID of the guest that they are for, where it is there. Raises `VirtrootError` for a directory that no
    guest may have: one that is not there, that is or holds a guest's root, a pool or the directories of kernels, or
    that lies in what a guest can change, where a link could lead anywhere by the next start.
    """
    if not wanted:
        return ()
    others = guests.every(hypervisor)
    found: list[Share] = []
    for each in wanted:
        shared = _find(hypervisor, directory, each, others)
        _refuse_nested(shared, [(guest.name, other) for guest in others for other in guest.shares])
        _refuse_nested(shared, [(_THIS, other) for other in found])
        for guest in others:
            _warn_of_writers(shared, guest, own=guest.uuid == of)
        found.append(shared)
    exposures = exposure.inspect(hypervisor.target, [each.directory for each in found])
    for given, shared, lies in zip(wanted, found, exposures, strict=True):
        # Who may write above the pool has the roots in it, too; that is no matter of one share.
        if not given.named:
            exposure.refuse_replaceable(shared.directory, lies)
        if lies.is_dangerous and not shared.readonly:
            warn(
                f"other users of the host enter {shared.directory}: a setuid program or a device that the guest makes "
                f"there is theirs, too; {exposure.REMEDY}"
            )
    return tuple(found)


def _find(hypervisor: Hypervisor, directory: str, wanted: ShareSpec, others: Sequence[Guest]) -> Share:
    if wanted.readonly and hypervisor.version < _READONLY_SINCE:
        raise VirtrootError(
            f"this libvirt ({'.'.join(map(str, hypervisor.version))}) has no read-only shares, which came with 11.0",
            "mount the directory read-only on the host and share that, without :ro",
        )
    path = place.share(directory, wanted.source) if wanted.named else wanted.source
    if hypervisor.embedded and not wanted.named:
        raise VirtrootError(
            f"the embedded hypervisor is a container and sees no {path} of this machine",
            f"give a name instead of the path: a directory in its pool, like {wanted.tag}:data:{wanted.point}",
        )
    [(identity, real)] = _resolved(hypervisor.target, [path])
    found = Share(wanted.tag, real, wanted.readonly)
    if wanted.named and real != _resolved(hypervisor.target, [directory])[0][1] + path[len(directory) :]:
        raise VirtrootError(
            f"{path} leads to {real}", "a named share is a directory of the pool's own; remove the link"
        )
    if not identity and not (wanted.named or wanted.create):
        raise VirtrootError(f"{path} is not there", "name a directory that is, or let :create make it")
    if identity and hypervisor.target.run(["test", "-d", real], check=False).returncode:
        raise VirtrootError(f"{path} is no directory", "a share is a whole directory")
    _refuse_protected(hypervisor, directory, found, others, own=wanted.named)
    _refuse_hosts_own(hypervisor.target, found, named=wanted.named)
    return found


def unseen(directory: str, wanted: Sequence[ShareSpec]) -> tuple[Share, ...]:
    """Return what the shares ``wanted`` will be where no libvirt can be asked yet."""
    paths = [place.share(directory, each.source) if each.named else each.source for each in wanted]
    return tuple(Share(each.tag, path, each.readonly) for each, path in zip(wanted, paths, strict=True))


def make(target: Target, shares: Sequence[Share]) -> None:
    """Make the directories that are not there, root's own; what is there is left as it is."""
    for each in shares:
        target.run(["sh", "-ec", 'umask 022; [ -d "$1" ] || mkdir -p -- "$1"', "make", each.directory])


def refuse_gone(guest: Guest) -> None:
    """Raise `VirtrootError` where a share of the guest is not the directory any more that it was."""
    if not guest.shares:
        return
    resolved = _resolved(guest.target, [each.directory for each in guest.shares])
    for each, (identity, real) in zip(guest.shares, resolved, strict=True):
        if not identity or real != each.directory:
            what = "is gone" if not identity else f"leads to {real} now"
            raise VirtrootError(
                f"{each.directory}, which {guest.name} shares as {each.tag}, {what}",
                f"make it again, or take the share away: ./inv unshare {guest.name} {each.tag}",
            )


def named(target: Target, directory: str) -> dict[str, str]:
    """Return the names of the named shares in the pool ``directory``, by their path."""
    script = 'cd -- "$1" 2>/dev/null && find "$PWD" -maxdepth 1 -type d -name "$2" -print0'
    found = target.run(["sh", "-c", script, "named", directory, place.share("", "*").lstrip("/")], check=False)
    paths = found.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    return {path: path.rpartition("/")[2].partition(".")[2] for path in paths}


def used(target: Target, path: str) -> int | None:
    """Return how many bytes of disk a directory takes; None where counting them takes long, or it is not there."""
    argv = ["timeout", _COUNTING, "du", "--summarize", "--block-size=1", "--one-file-system", path]
    done = target.run(argv, check=False)
    return None if done.returncode else int(split_fields(done.text)[0])


def _warn_of_writers(shared: Share, guest: Guest, *, own: bool) -> None:
    for other in guest.shares:
        if other.directory == shared.directory and not own and not (other.readonly and shared.readonly):
            warn(f"{guest.name} shares {shared.directory} too: file locks do not reach from one guest to another")


def refuse_shared(hypervisor: Hypervisor, directory: str) -> None:
    """Raise `VirtrootError` where a guest shares the pool ``directory``, or what it lies in."""
    shared = [(guest.name, each) for guest in guests.every(hypervisor) for each in guest.shares]
    if not shared:
        return
    paths = _ancestry(hypervisor.target, [directory, *(each.directory for _, each in shared)])
    for name, each in shared:
        inside = [paths[each.directory][0], *_mounted_in(hypervisor.target, each.directory)]
        if {*inside} & {*paths[directory]}:
            raise VirtrootError(
                f"{name} shares {each.directory}, and could change what is in the pool {directory}",
                f"name another directory for the pool, or take the share away: ./inv unshare {name} {each.tag}",
            )


def _refuse_hosts_own(target: Target, found: Share, *, named: bool) -> None:
    """Raise `VirtrootError` for a directory of the host's system, one that holds such, or one inside.

    A ``named`` share lies in the pool, wherever that is.
    """
    # Some are links on most machines: what they lead to counts, and where they are.
    paths = _ancestry(target, [found.directory, *_HOSTS_OWN])
    mine = paths[found.directory]
    inside = [mine[0], *_mounted_in(target, found.directory)]
    for path in _HOSTS_OWN:
        if paths[path][0] in mine and not named:
            where = "is" if paths[path][0] == mine[0] else "is inside"
        elif {*inside} & {*paths[path], path}:
            where = "holds"
        else:
            continue
        raise VirtrootError(
            f"{found.directory} {where} {path}, which is the host's own system: no guest gets that",
            "share a directory with nothing but data in it, like one below /srv",
        )


def _refuse_protected(
    hypervisor: Hypervisor, directory: str, found: Share, others: Sequence[Guest], *, own: bool
) -> None:
    protected = {guest.root: f"the root of {guest.name}" for guest in others}
    protected |= {place.BOOT: "the directory of guests' kernels", directory: _THE_POOL}
    protected |= {path: _ANOTHER_POOL for path in pool.list_directories(hypervisor) if path != directory}
    paths = _ancestry(hypervisor.target, [found.directory, *protected])
    mine = paths[found.directory]
    resolved = [(what, path, paths[path]) for path, what in protected.items()]
    for what, _, other in resolved:
        if mine[0] == other[0]:
            raise VirtrootError(f"{found.directory} is {what}", "share a directory that is no guest's and no pool")
    inside = [mine[0], *_mounted_in(hypervisor.target, found.directory)]
    for what, real, other in resolved:
        if {*inside} & {*other}:
            raise VirtrootError(
                f"{found.directory} holds {what}, {real}", "share a directory with nothing of libvirt's in it"
            )
        if what != _ANOTHER_POOL and other[0] in mine and not (own and what == _THE_POOL):
            raise VirtrootError(
                f"{found.directory} is inside {what}, {real}",
                "share a directory of the host's own, or give a name: a directory that virtroot makes in the pool",
            )


def _refuse_nested(found: Share, others: Sequence[tuple[str, Share]]) -> None:
    for name, other in others:
        inner = _holds(other.directory, found.directory) or _holds(found.directory, other.directory)
        if inner and other.directory != found.directory:
            raise VirtrootError(
                f"of {found.directory} and {other.directory}, which {name} shares as {other.tag}, one holds the other",
                "share the same directory, or two apart: a guest could replace the inner one by a link; "
                f"./inv unshare {'GUEST' if name == _THIS else name} {other.tag} takes the other one away",
            )


def _holds(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")


def _mounted_in(target: Target, path: str) -> list[str]:
    """Return what is mounted in the directory ``path``, by device and inode: virtiofsd serves that, too."""
    points = [point for point in mounts.below(target, path.rstrip("/")) if point != path]
    return [identity for identity, _ in _resolved(target, points) if identity]


def _ancestry(target: Target, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return what each of ``paths`` really is, and what the directories above it are, the nearest first.

    Each is told by device and inode, whatever it is mounted as, or by its path where it is not there.
    """
    real = dict(zip(paths, (path for _, path in _resolved(target, paths)), strict=True))
    above = {path: [path, *map(str, PurePosixPath(path).parents)] for path in real.values()}
    every = sorted({each for lineage in above.values() for each in lineage})
    known = {path: identity or path for path, (identity, _) in zip(every, _resolved(target, every), strict=True)}
    return {path: [known[each] for each in above[resolved]] for path, resolved in real.items()}


def _resolved(target: Target, paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return device and inode (empty for what is not there) and the real path of each of ``paths``."""
    done = target.run(["sh", "-c", _RESOLVE, "resolve", *paths]).stdout.decode(errors="surrogateescape")
    words = done.split("\0")[:-1]
    return list(zip(words[::2], words[1::2], strict=True))
