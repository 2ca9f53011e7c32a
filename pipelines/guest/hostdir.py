"""Which directories of libvirt's host a guest may share, and how the name or path of a share is resolved."""

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

#: The first version of libvirt with read-only virtiofs devices.
_READONLY_SINCE = (11, 0)

_THE_POOL, _ANOTHER_POOL = "the pool", "another pool of libvirt"

#: The host's own programs, configuration and secrets: a guest that writes there could become root on the host.
_HOSTS_OWN = (
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var/lib/apt", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/dpkg",
    "/var/lib/libvirt", "/var/lib/machines", "/var/lib/pacman", "/var/lib/private", "/var/lib/sudo",
    "/var/lib/systemd", "/var/log", "/var/spool/cron",
)  # fmt: skip

#: Stands for the guest that the shares are resolved for, in messages.
_THIS_GUEST = "this guest"

#: Seconds that du may take to measure a share.
_DU_SECONDS = "10"

# Device and inode identify a directory, at any path where it is mounted.
_RESOLVE = """
for path do
    real=$(realpath -m -- "$path"; echo .)
    real=${real%??}
    printf '%s\\0%s\\0' "$(stat --format=%d:%i -- "$real" 2>/dev/null)" "$real"
done
"""


def resolve(hypervisor: Hypervisor, directory: str, wanted: Sequence[ShareSpec], *, of: str = "") -> tuple[Share, ...]:
    """Return the shares ``wanted`` with their directories on libvirt's host, whose pool is ``directory``; make nothing.

    ``of`` is the UUID of the guest that they are for, if it exists. Raises `VirtrootError` for a directory that no
    guest may share: a missing one; one that is or contains a guest's root, a pool or the boot directories; and one
    inside a directory that a guest can write to, since the guest could replace it by a link before the next start.
    """
    if not wanted:
        return ()
    others = guests.list_guests(hypervisor)
    found: list[Share] = []
    for each in wanted:
        shared = _resolve_share(hypervisor, directory, each, others)
        _refuse_nested(shared, [(guest.name, other) for guest in others for other in guest.shares])
        _refuse_nested(shared, [(_THIS_GUEST, other) for other in found])
        for guest in others:
            _warn_of_shared_locks(shared, guest, own=guest.uuid == of)
        found.append(shared)
    exposures = exposure.inspect(hypervisor.target, [each.directory for each in found])
    for given, shared, lies in zip(wanted, found, exposures, strict=True):
        # A named share lies in the pool. If others could replace that, they could replace the roots, too.
        if not given.named:
            exposure.refuse_replaceable(shared.directory, lies)
        if lies.is_dangerous and not shared.readonly:
            warn(
                f"other users of the host can enter {shared.directory}, and use setuid programs and devices that the "
                f"guest makes there: {exposure.REMEDY}"
            )
    return tuple(found)


def _resolve_share(hypervisor: Hypervisor, directory: str, wanted: ShareSpec, others: Sequence[Guest]) -> Share:
    if wanted.readonly and hypervisor.version < _READONLY_SINCE:
        raise VirtrootError(
            f"libvirt {'.'.join(map(str, hypervisor.version))} has no read-only shares, they need 11.0",
            "mount the directory read-only on the host and share that, without :ro",
        )
    path = place.share(directory, wanted.source) if wanted.named else wanted.source
    if hypervisor.embedded and not wanted.named:
        raise VirtrootError(
            f"the embedded hypervisor is a container, which has no access to {path} of this machine",
            f"use a named share, a directory in its pool, like {wanted.tag}:data:{wanted.point}",
        )
    [(identity, real)] = _resolve_paths(hypervisor.target, [path])
    found = Share(wanted.tag, real, wanted.readonly)
    if wanted.named and real != _resolve_paths(hypervisor.target, [directory])[0][1] + path[len(directory) :]:
        raise VirtrootError(
            f"{path}: leads to {real}", "remove the link: a named share has to be a directory in the pool"
        )
    if not identity and not (wanted.named or wanted.create):
        raise VirtrootError(f"{path}: No such file or directory", "use an existing directory, or :create")
    if identity and hypervisor.target.run(["test", "-d", real], check=False).returncode:
        raise VirtrootError(f"{path}: not a directory", "share a directory")
    _refuse_protected(hypervisor, directory, found, others, own=wanted.named)
    _refuse_hosts_own(hypervisor.target, found, named=wanted.named)
    return found


def predict(directory: str, wanted: Sequence[ShareSpec]) -> tuple[Share, ...]:
    """Return the shares ``wanted`` with the directories they will get, if there is no libvirt yet to resolve them."""
    paths = [place.share(directory, each.source) if each.named else each.source for each in wanted]
    return tuple(Share(each.tag, path, each.readonly) for each, path in zip(wanted, paths, strict=True))


def make_directories(target: Target, shares: Sequence[Share]) -> None:
    """Make missing directories, owned by root; existing ones stay as they are."""
    for each in shares:
        target.run(["sh", "-ec", 'umask 022; [ -d "$1" ] || mkdir -p -- "$1"', "make", each.directory])


def refuse_gone(guest: Guest) -> None:
    """Raise `VirtrootError` if the directory of a share is missing now, or was replaced by a link."""
    if not guest.shares:
        return
    resolved = _resolve_paths(guest.target, [each.directory for each in guest.shares])
    for each, (identity, real) in zip(guest.shares, resolved, strict=True):
        if not identity or real != each.directory:
            what = "is missing" if not identity else f"leads to {real} now"
            raise VirtrootError(
                f"{each.directory}, which {guest.name} shares as {each.tag}, {what}",
                f"make it again, or run ./inv unshare {guest.name} {each.tag}",
            )


def list_named(target: Target, directory: str) -> dict[str, str]:
    """Return the names of the named shares in the pool ``directory``, by path."""
    script = 'cd -- "$1" 2>/dev/null && find "$PWD" -maxdepth 1 -type d -name "$2" -print0'
    found = target.run(["sh", "-c", script, "named", directory, place.share("", "*").lstrip("/")], check=False)
    paths = found.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    return {path: path.rpartition("/")[2].partition(".")[2] for path in paths}


def measure_size(target: Target, path: str) -> int | None:
    """Return the disk usage of a directory in bytes; None if it is missing, or if measuring it takes too long."""
    argv = ["timeout", _DU_SECONDS, "du", "--summarize", "--block-size=1", "--one-file-system", path]
    done = target.run(argv, check=False)
    return None if done.returncode else int(split_fields(done.text)[0])


def _warn_of_shared_locks(shared: Share, guest: Guest, *, own: bool) -> None:
    for other in guest.shares:
        if other.directory == shared.directory and not own and not (other.readonly and shared.readonly):
            warn(f"{guest.name} shares {shared.directory}, too: file locks do not work between guests")


def refuse_shared(hypervisor: Hypervisor, directory: str) -> None:
    """Raise `VirtrootError` if a guest shares the pool ``directory``, or a directory that contains it."""
    shared = [(guest.name, each) for guest in guests.list_guests(hypervisor) for each in guest.shares]
    if not shared:
        return
    paths = _list_ancestry(hypervisor.target, [directory, *(each.directory for _, each in shared)])
    for name, each in shared:
        inside = [paths[each.directory][0], *_list_mounts(hypervisor.target, each.directory)]
        if {*inside} & {*paths[directory]}:
            raise VirtrootError(
                f"{name} shares {each.directory}, and could change the pool {directory}",
                f"use another directory for the pool, or run ./inv unshare {name} {each.tag}",
            )


def _refuse_hosts_own(target: Target, found: Share, *, named: bool) -> None:
    """Raise `VirtrootError` for a directory of the host's system, for one inside it, and for one that contains it.

    A ``named`` share lies in the pool, and may be inside such a directory.
    """
    # Some of these are links on most machines: both the link's directory and its destination count.
    paths = _list_ancestry(target, [found.directory, *_HOSTS_OWN])
    mine = paths[found.directory]
    inside = [mine[0], *_list_mounts(target, found.directory)]
    for path in _HOSTS_OWN:
        if paths[path][0] in mine and not named:
            where = "is" if paths[path][0] == mine[0] else "is inside"
        elif {*inside} & {*paths[path], path}:
            where = "contains"
        else:
            continue
        raise VirtrootError(
            f"{found.directory} {where} {path}, which belongs to the host's system: guests may not share it",
            "share a directory that contains only data, for example one below /srv",
        )


def _refuse_protected(
    hypervisor: Hypervisor, directory: str, found: Share, others: Sequence[Guest], *, own: bool
) -> None:
    protected = {guest.root: f"the root of {guest.name}" for guest in others}
    protected |= {place.BOOT: "the directory of guests' kernels", directory: _THE_POOL}
    protected |= {path: _ANOTHER_POOL for path in pool.list_directories(hypervisor) if path != directory}
    paths = _list_ancestry(hypervisor.target, [found.directory, *protected])
    mine = paths[found.directory]
    resolved = [(what, path, paths[path]) for path, what in protected.items()]
    for what, _, other in resolved:
        if mine[0] == other[0]:
            raise VirtrootError(f"{found.directory} is {what}", "share a directory that is not a root and not a pool")
    inside = [mine[0], *_list_mounts(hypervisor.target, found.directory)]
    for what, real, other in resolved:
        if {*inside} & {*other}:
            raise VirtrootError(
                f"{found.directory} contains {what}, {real}", "share a directory that contains nothing of libvirt"
            )
        if what != _ANOTHER_POOL and other[0] in mine and not (own and what == _THE_POOL):
            raise VirtrootError(
                f"{found.directory} is inside {what}, {real}",
                "share a directory of the host outside it, or use a named share, which virtroot makes in the pool",
            )


def _refuse_nested(found: Share, others: Sequence[tuple[str, Share]]) -> None:
    for name, other in others:
        inner = _is_same_or_parent(other.directory, found.directory) or _is_same_or_parent(
            found.directory, other.directory
        )
        if inner and other.directory != found.directory:
            raise VirtrootError(
                f"{found.directory} and {other.directory}, which {name} shares as {other.tag}, contain one another",
                "share the same directory or separate ones, since a guest could replace the inner one by a link; "
                f"to remove the other share, run ./inv unshare {'GUEST' if name == _THIS_GUEST else name} {other.tag}",
            )


def _is_same_or_parent(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")


def _list_mounts(target: Target, path: str) -> list[str]:
    """Return device and inode of everything mounted in the directory ``path``: virtiofsd serves that, too."""
    points = [point for point in mounts.below(target, path.rstrip("/")) if point != path]
    return [identity for identity, _ in _resolve_paths(target, points) if identity]


def _list_ancestry(target: Target, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the identities of each of ``paths`` and of the directories above it, nearest first.

    An identity is device and inode, which are equal at every mount point, or the path if there is nothing.
    """
    real = dict(zip(paths, (path for _, path in _resolve_paths(target, paths)), strict=True))
    above = {path: [path, *map(str, PurePosixPath(path).parents)] for path in real.values()}
    every = sorted({each for lineage in above.values() for each in lineage})
    known = {path: identity or path for path, (identity, _) in zip(every, _resolve_paths(target, every), strict=True)}
    return {path: [known[each] for each in above[resolved]] for path, resolved in real.items()}


def _resolve_paths(target: Target, paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return device and inode (empty if it does not exist) and the real path of each of ``paths``."""
    done = target.run(["sh", "-c", _RESOLVE, "resolve", *paths]).stdout.decode(errors="surrogateescape")
    words = done.split("\0")[:-1]
    return list(zip(words[::2], words[1::2], strict=True))
