"""Share: a guest that is off gets or loses a directory of libvirt's machine; and what is shared with whom."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cli.task import GUEST, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, virtiofsd_wrapper
from pipelines.guest.guest import Guest
from pipelines.libvirt import beside
from pipelines.libvirt.connect import connect
from pipelines.log import say
from pipelines.pool import pool, shares
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ROOT_TAGS, ShareSpec, parse
from pipelines.settings import Settings
from pipelines.text import size, table


def read(text: str) -> ShareSpec:
    """Read a share as it is written on the command line; raises `VirtrootError` for what is none."""
    try:
        return parse(text)
    except ValueError as error:
        raise VirtrootError(str(error), "like data:/srv/data:/srv/data:ro") from error


def add_share(name: str, wanted: ShareSpec, settings: Settings) -> Share:
    """Give the guest ``name``, which is off, a share; return what it is on libvirt's machine."""
    with _off(name, settings) as guest:
        hypervisor = guest.hypervisor
        if any(each.tag == wanted.tag for each in guest.shares):
            raise VirtrootError(
                f"{name} has a share {wanted.tag} already", f"choose another tag, or ./inv unshare {name} {wanted.tag}"
            )
        taken = {
            point: tag for tag, point in shares.read_mount_points(guest.target, guest.root).items() if tag != wanted.tag
        }
        if wanted.point in taken:
            raise VirtrootError(f"{name} mounts {taken[wanted.point]} at {wanted.point}", "choose another path")
        [found] = hostdir.resolve(hypervisor, pool.ensure_directory(hypervisor, settings), [wanted], of=guest.uuid)
        hostdir.make_directories(guest.target, [found])
        # A line in fstab for a device that is not there harms nothing; the other way about, the share is not mounted.
        shares.add_mount(guest.target, guest.root, found, wanted.point)
        definition = virtiofsd_wrapper.refresh(hypervisor, guest.uuid, guest.boot)
        wrapper = virtiofsd_wrapper.choose_for_share(definition).path
        beside.install_wrapper(guest.target, wrapper)
        attached = _change(guest, "attach-device", found, wrapper)
        if attached:
            shares.remove_mount(guest.target, guest.root, wanted.tag)
            raise VirtrootError(f"libvirt does not give {name} the share", "read libvirt's reason above", attached)
    return found


def unshare(name: str, tag: str, settings: Settings) -> str:
    """Take the share ``tag`` from the guest ``name``, which is off; return its directory, which stays as it is."""
    with _off(name, settings) as guest:
        found = next((each for each in guest.shares if each.tag == tag), None)
        if found:
            virtiofsd_wrapper.refresh(guest.hypervisor, guest.uuid, guest.boot)
            refused = _change(guest, "detach-device", found)
            if refused:
                raise VirtrootError(f"libvirt does not take the share {tag}", "read libvirt's reason above", refused)
        # Without a device, a killed task may have left the line.
        line = (found is not None or tag not in ROOT_TAGS) and shares.remove_mount(guest.target, guest.root, tag)
        if not found and not line:
            has = ", ".join(each.tag for each in guest.shares) or "none"
            raise VirtrootError(f"{name} has no share {tag}", f"its shares: {has}")
    return found.directory if found else ""


@dataclass(frozen=True)
class User:
    """A guest that has a share."""

    guest: str
    tag: str
    readonly: bool


@dataclass(frozen=True)
class Row:
    """A share in the list. ``name`` is empty for a directory outside the pool.

    ``size`` is in bytes, or None if counting takes too long.
    """

    name: str
    directory: str
    size: int | None
    guests: list[User]


def listing(settings: Settings) -> list[Row]:
    """Return a row for each named share, used or not, and for each other directory that a guest shares."""
    hypervisor = connect(settings)
    target = hypervisor.target
    names = hostdir.list_named(target, pool.find_directory(hypervisor, settings) or settings.pool_path)
    users: dict[str, list[User]] = {path: [] for path in names}
    for guest in guests.list_guests(hypervisor):
        for each in guest.shares:
            users.setdefault(each.directory, []).append(User(guest.name, each.tag, each.readonly))
    return [Row(names.get(path, ""), path, hostdir.measure_size(target, path), users[path]) for path in sorted(users)]


def as_table(rows: list[Row]) -> str:
    """Return a listing as people read it: SHARE SIZE GUESTS; empty without shares."""
    if not rows:
        return ""
    lines = [("SHARE", "SIZE", "GUESTS")]
    for row in rows:
        users = ", ".join(f"{each.guest} ({each.tag}{', ro' * each.readonly})" for each in row.guests)
        lines.append((row.name or row.directory, size(row.size), users or "-"))
    return table(lines)


@contextmanager
def _off(name: str, settings: Settings) -> Iterator[Guest]:
    off = f"its shares change while it is off: ./inv stop {name}"
    with hold.hold(connect(settings), name, off=off) as guest:
        guest.mount_layers()
        yield guest


def _change(guest: Guest, how: str, share: Share, binary: str = "") -> str:
    """Let libvirt attach or detach the share's device; return its complaint, empty when it did."""
    xml = ET.tostring(shares.make_device(share, binary))
    done = guest.hypervisor.virsh(how, guest.uuid, "/dev/stdin", "--config", stdin=xml, check=False)
    return (done.complaint or "no reason given") if done.returncode else ""


@task(
    name="share",
    help={
        **GUEST,
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create]; HOSTDIR is a directory of libvirt's machine, or a name",
    },
)
def share_task(
    c: Context,
    name: str,
    share: str,
) -> None:
    """Give a guest that is off a further directory.

    ./inv share web data:/srv/data:/srv/data:ro
    """
    given = add_share(name, read(share), settings_of(c))
    say(f"{name} has {given.directory} as {given.tag} from its next start on")


@task(name="unshare", help={**GUEST, "tag": "the share's tag"})
def unshare_task(
    c: Context,
    name: str,
    tag: str,
) -> None:
    """Take a share from a guest that is off; what is in it stays.

    ./inv unshare web data
    """
    directory = unshare(name, tag, settings_of(c))
    say(f"{name} has no share {tag} any more{f'; {directory} stays as it is' if directory else ''}")
