"""Snapshots of a guest's root, beside it in the pool: taken while the guest is off, and put back in its place.

``POOL/snapshots.GUEST/NAME`` holds the tree as ``root`` and what it is as ``about``. Of a root of two layers ``root``
is the directory of the layers, without what is below them. A snapshot appears and goes by one rename.
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
from pipelines.libvirt import beside
from pipelines.log import warn
from pipelines.pool import clone_methods, place, shares
from pipelines.target import durable, mounts, subvolume
from pipelines.text import split_lines

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}")

_ABOUT = "about"

#: How a snapshot was made, to people.
WORDS = {**clone_methods.WORDS, "overlay": "a copy of its upper layer"}

_LIST = """
for each in "$1"/*/about; do
    [ ! -f "$each" ] || { path=${each%/about}; printf '%s ' "${path##*/}"; cat -- "$each"; echo; }
done
"""


class About(BaseModel):
    """What is recorded of a snapshot: when it was taken, in UTC; how, one of `roots.WAYS`; and what it lies on.

    ``golden``, ``lower`` and ``artifact`` are those of the guest, see `Guest`.
    """

    taken: datetime
    how: str
    golden: str = ""
    lower: str = ""
    artifact: str = ""


def checked_name(name: str) -> str:
    """Return ``name`` if a snapshot can be called that; raises `VirtrootError`."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise VirtrootError(
            f"{name!r} is no name for a snapshot", "begin with a letter or digit; then letters, digits, and . _ + -"
        )
    return name


def stamp() -> str:
    """Return a name that says when: the time in UTC."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def every(guest: Guest) -> dict[str, About]:
    """Return the guest's snapshots by name, the oldest first."""
    listed = guest.target.run(["sh", "-c", _LIST, "list", _directory(guest)], check=False)
    found = {}
    for line in split_lines(listed.text):
        name, _, about = line.partition(" ")
        with contextlib.suppress(ValidationError):
            found[name] = About.model_validate_json(about)
    return dict(sorted(found.items(), key=lambda each: (each[1].taken, each[0])))


def take(guest: Guest, name: str) -> About:
    """Make the snapshot ``name`` of a guest that is off; the caller holds its lock.

    Raises `VirtrootError`, with nothing left of it, where there is one of that name, and for a guest that runs.
    """
    if name in every(guest):
        raise VirtrootError(f"{guest.name} has a snapshot {name} already", "choose another name, or remove that one")
    _refuse_used(guest)
    _take_apart(guest)
    return _made(guest, guest.root, name)


def refuse_uncopyable(guest: Guest) -> None:
    """Raise `VirtrootError` where no snapshot of a guest can be made since directories in it are nested too deep."""
    pool = place.of_root(guest.root).pool
    if guest.lower or clone_methods.way(guest.target, pool, "auto", source=guest.root) != "snapshot":
        beside.refuse_too_long(guest.target, guest.root, f"{_hidden(guest, 'x')}/root/upper")


def restore(guest: Guest, name: str, kept: str) -> None:
    """Put the snapshot ``name`` in place of the root of a guest that is off, which becomes the snapshot ``kept``.

    The caller holds the guest's lock. Raises `VirtrootError`, with the root as it was.
    """
    about = find(guest, name)
    if about.artifact not in ("", guest.artifact):
        raise VirtrootError(
            f"the snapshot {name} is of {about.artifact}, and {guest.name} is on {guest.artifact}",
            f"go back to that first: ./inv rollback {guest.name}",
        )
    if (about.golden, about.lower) != (guest.golden, guest.lower) and (about.lower or guest.lower):
        raise VirtrootError(f"the snapshot {name} and {guest.name} do not lie on the same golden tree", "take another")
    _refuse_used(guest)
    guest.assemble()
    shared_at = shares.points_if_told(guest.target, guest.root) if guest.shares else {}
    _take_apart(guest)
    # A copy of the snapshot lies where the root is going to, until one exchange makes them what they are called.
    _made(guest, f"{_directory(guest)}/{name}/root", kept)
    with process.defer_interrupt():
        beside.exchange(guest.target, guest.root, f"{_directory(guest)}/{kept}/root")
    subvolume.close(guest.target, f"{_directory(guest)}/{kept}/root")
    guest.assemble()
    try:
        shares.follow(guest.target, guest.root, guest.shares, shared_at, usr=guest.usr)
    except VirtrootError as error:
        warn(f"{guest.name} has what it was, also in its fstab, whatever it shares now: {error.what}")


def find(guest: Guest, name: str) -> About:
    """Return what the guest's snapshot ``name`` is; raises `VirtrootError` where there is none."""
    known = every(guest)
    if name not in known:
        raise VirtrootError(f"{guest.name} has no snapshot {name}", f"its snapshots: {', '.join(known) or 'none yet'}")
    return known[name]


def delete(guest: Guest, name: str) -> None:
    """Delete the snapshot ``name``; the caller holds the guest's lock."""
    find(guest, name)
    hidden = _hidden(guest, name)
    guest.target.run(["mv", "-T", "--", f"{_directory(guest)}/{name}", hidden])
    _clear(guest)


def _take_apart(guest: Guest) -> None:
    """Unmount the layers of a root: what is mounted hides them, and cannot be renamed. The next start mounts them."""
    if guest.lower:
        beside.unmount(guest.target, guest.root)


def _made(guest: Guest, source: str, name: str) -> About:
    """Make the snapshot ``name`` of the tree or the layers in ``source``."""
    target, directory = guest.target, _directory(guest)
    pool = place.of_root(guest.root).pool
    way = "overlay" if guest.lower else clone_methods.way(target, pool, "auto", source=source)
    about = About(taken=datetime.now(UTC), how=way, golden=guest.golden, lower=guest.lower, artifact=guest.artifact)
    _clear(guest)
    hidden = _hidden(guest, name)
    try:
        target.run(["mkdir", "--parents", "--mode=0700", directory])
        target.run(["mkdir", "--mode=0700", hidden])
        if guest.lower:
            clone_methods.copy_layers(target, source, f"{hidden}/root")
        else:
            clone_methods.make(target, way, source, f"{hidden}/root", nested=True)
        if source == guest.root:
            subvolume.close(target, f"{hidden}/root")
        target.run(["sh", "-ec", 'cat > "$1"', "about", f"{hidden}/{_ABOUT}"], stdin=about.model_dump_json().encode())
        # libvirt does not know of our lock, and one without virtroot's hook has started it all the same.
        _refuse_running(guest)
        durable.rename(target, hidden, f"{directory}/{name}")
    except BaseException:
        # The reason why it failed is what the user has to see; the next one clears what stays now.
        with contextlib.suppress(VirtrootError):
            _clear(guest)
        raise
    return about


def _refuse_used(guest: Guest) -> None:
    _refuse_running(guest)
    guest.refuse_shared_root()
    guest.refuse_mounts()


def _refuse_running(guest: Guest) -> None:
    if guest.running:
        raise VirtrootError(
            f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}; or give --restart"
        )


def _directory(guest: Guest) -> str:
    return place.of_root(guest.root).snapshots


def _hidden(guest: Guest, name: str) -> str:
    return f"{_directory(guest)}/.{name}@{secrets.token_hex(4)}"


def _clear(guest: Guest) -> None:
    """Delete what is hidden among the guest's snapshots, and their directory where nothing is left in it."""
    target, directory = guest.target, _directory(guest)
    listed = target.run(
        ["find", directory, "-mindepth", "1", "-maxdepth", "1", "-name", ".*@*", "-print0"], check=False
    )
    mounts.delete(target, *[path for path in listed.stdout.decode(errors="surrogateescape").split("\0") if path])
    target.run(["rmdir", "--ignore-fail-on-non-empty", "--", directory], check=False)
