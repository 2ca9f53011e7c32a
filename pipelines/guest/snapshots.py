"""Snapshots of a guest's root in the pool: they are taken and restored while the guest is off.

``POOL/snapshots.GUEST/NAME`` has the tree as ``root`` and its description as ``about``. For an overlay root, ``root``
is the directory of the layers, without the base tree. A snapshot appears and disappears by one rename.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.host import process
from pipelines.log import warn
from pipelines.pool import clone_methods, place, shares
from pipelines.target import durable, mounts, programs, subvolume
from pipelines.text import split_lines

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}")

_ABOUT = "about"

#: What messages call a snapshot, by clone method.
DESCRIPTIONS = {**clone_methods.DESCRIPTIONS, "overlay": "a copy of its upper layer"}

_LIST = """
for each in "$1"/*/about; do
    [ ! -f "$each" ] || { path=${each%/about}; printf '%s ' "${path##*/}"; cat -- "$each"; echo; }
done
"""


class About(BaseModel):
    """The description of a snapshot: when it was taken, in UTC, and the clone method.

    ``golden``, ``lower`` and ``artifact`` are those of the guest, see `Guest`.
    """

    taken: datetime
    how: str
    golden: str = ""
    lower: str = ""
    artifact: str = ""


def check_name(name: str) -> str:
    """Return ``name`` if it is valid as the name of a snapshot; raises `VirtrootError` otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise VirtrootError(
            f"invalid snapshot name {name!r}", "begin with a letter or digit; then letters, digits and . _ + -"
        )
    return name


def make_name() -> str:
    """Return a name for a snapshot: the current time in UTC."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def list_snapshots(guest: Guest) -> dict[str, About]:
    """Return the guest's snapshots by name, oldest first."""
    listed = guest.target.run(["sh", "-c", _LIST, "list", _get_directory(guest)], check=False)
    found = {}
    for line in split_lines(listed.text):
        name, _, about = line.partition(" ")
        with contextlib.suppress(ValidationError):
            found[name] = About.model_validate_json(about)
    return dict(sorted(found.items(), key=lambda each: (each[1].taken, each[0])))


def take(guest: Guest, name: str) -> About:
    """Take the snapshot ``name`` of a guest that is off; the caller holds its lock.

    Raises `VirtrootError` if the name is taken, or if the guest is running; no part of the snapshot stays then.
    """
    if name in list_snapshots(guest):
        raise VirtrootError(f"{guest.name} already has a snapshot {name}", "use another name, or remove the snapshot")
    _refuse_in_use(guest)
    _unmount_layers(guest)
    return _make(guest, guest.root, name)


def refuse_uncopyable(guest: Guest) -> None:
    """Raise `VirtrootError` if directories in the guest's root are nested too deep for a copy of it."""
    pool = place.of_root(guest.root).pool
    if guest.source.lower or clone_methods.choose_method(guest.target, pool, "auto", source=guest.root) != "snapshot":
        programs.check_path_length(guest.target, guest.root, f"{_make_hidden_path(guest, 'x')}/root/upper")


def restore(guest: Guest, name: str, kept: str) -> None:
    """Exchange the root of a guest that is off with a copy of the snapshot ``name``; the root becomes ``kept``.

    The caller holds the guest's lock. Raises `VirtrootError`; the root is unchanged then.
    """
    about = get(guest, name)
    if about.artifact not in ("", guest.source.artifact):
        raise VirtrootError(
            f"the snapshot {name} is from {about.artifact}, but {guest.name} is on {guest.source.artifact}",
            f"run ./inv rollback {guest.name} first",
        )
    if (about.golden, about.lower) != (guest.source.golden, guest.source.lower) and (about.lower or guest.source.lower):
        raise VirtrootError(f"the snapshot {name} and {guest.name} have different base trees", "use another snapshot")
    _refuse_in_use(guest)
    guest.mount_layers()
    shared_at = shares.read_mount_points_or_warn(guest.target, guest.root) if guest.shares else {}
    _unmount_layers(guest)
    # A copy of the snapshot gets the path at which the root will be kept; then one exchange swaps the two.
    _make(guest, f"{_get_directory(guest)}/{name}/root", kept)
    with process.defer_interrupt():
        programs.exchange(guest.target, guest.root, f"{_get_directory(guest)}/{kept}/root")
    subvolume.close(guest.target, f"{_get_directory(guest)}/{kept}/root")
    guest.mount_layers()
    try:
        shares.update_fstab(guest.target, guest.root, guest.shares, shared_at, usr=guest.usr)
    except VirtrootError as error:
        warn(f"the fstab of {guest.name} is the snapshot's, and may not match its shares: {error.what}")


def get(guest: Guest, name: str) -> About:
    """Return the guest's snapshot ``name``; raises `VirtrootError` if there is none."""
    known = list_snapshots(guest)
    if name not in known:
        raise VirtrootError(
            f"{guest.name} has no snapshot {name}", f"use one of its snapshots: {', '.join(known) or 'none yet'}"
        )
    return known[name]


def delete(guest: Guest, name: str) -> None:
    """Delete the snapshot ``name``; the caller holds the guest's lock."""
    get(guest, name)
    hidden = _make_hidden_path(guest, name)
    guest.target.run(["mv", "-T", "--", f"{_get_directory(guest)}/{name}", hidden])
    _delete_hidden(guest)


def _unmount_layers(guest: Guest) -> None:
    """Unmount an overlay root: the mount hides the layers, and cannot be renamed. The next start mounts it again."""
    if guest.source.lower:
        programs.unmount_layers(guest.target, guest.root)


def _make(guest: Guest, source: str, name: str) -> About:
    """Make the snapshot ``name`` from the tree or the layers in ``source``."""
    target, directory = guest.target, _get_directory(guest)
    pool = place.of_root(guest.root).pool
    method = "overlay" if guest.source.lower else clone_methods.choose_method(target, pool, "auto", source=source)
    about = About(
        taken=datetime.now(UTC),
        how=method,
        golden=guest.source.golden,
        lower=guest.source.lower,
        artifact=guest.source.artifact,
    )
    _delete_hidden(guest)
    hidden = _make_hidden_path(guest, name)
    try:
        target.run(["mkdir", "--parents", "--mode=0700", directory])
        target.run(["mkdir", "--mode=0700", hidden])
        if guest.source.lower:
            clone_methods.copy_layers(target, source, f"{hidden}/root")
        else:
            clone_methods.clone(target, method, source, f"{hidden}/root", nested=True)
        if source == guest.root:
            subvolume.close(target, f"{hidden}/root")
        target.run(["sh", "-ec", 'cat > "$1"', "about", f"{hidden}/{_ABOUT}"], stdin=about.model_dump_json().encode())
        # libvirt does not know virtroot's lock: without virtroot's hook, it may have started the guest meanwhile.
        _refuse_running(guest)
        durable.rename(target, hidden, f"{directory}/{name}")
    except BaseException:
        # An error of the deletion would hide the error that the user has to see; the next call deletes what is left.
        with contextlib.suppress(VirtrootError):
            _delete_hidden(guest)
        raise
    return about


def _refuse_in_use(guest: Guest) -> None:
    _refuse_running(guest)
    guest.refuse_shared_root()
    guest.refuse_mounts()


def _refuse_running(guest: Guest) -> None:
    if guest.running:
        raise VirtrootError(
            f"the guest {guest.name} is running", f"run ./inv stop {guest.name} first, or use --restart"
        )


def _get_directory(guest: Guest) -> str:
    return place.of_root(guest.root).snapshots


def _make_hidden_path(guest: Guest, name: str) -> str:
    return f"{_get_directory(guest)}/.{name}@{secrets.token_hex(4)}"


def _delete_hidden(guest: Guest) -> None:
    """Delete hidden entries among the guest's snapshots, and the directory of snapshots if it is empty then."""
    target, directory = guest.target, _get_directory(guest)
    listed = target.run(
        ["find", directory, "-mindepth", "1", "-maxdepth", "1", "-name", ".*@*", "-print0"], check=False
    )
    mounts.delete(target, *[path for path in listed.stdout.decode(errors="surrogateescape").split("\0") if path])
    target.run(["rmdir", "--ignore-fail-on-non-empty", "--", directory], check=False)
