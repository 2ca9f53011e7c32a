"""Add shares to guests that are off, remove them, and list shares and the guests that have them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cli.task import GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, hostdir, virtiofsd_wrapper
from pipelines.guest.guest import Guest
from pipelines.libvirt import host_files
from pipelines.log import say
from pipelines.pool import pool, shares
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ROOT_TAGS, ShareSpec, parse
from pipelines.text import size, table


def parse_share(text: str) -> ShareSpec:
    """Parse a share as written on the command line; raises `VirtrootError` if it is invalid."""
    try:
        return parse(text)
    except ValueError as error:
        raise VirtrootError(str(error), "use for example data:/srv/data:/srv/data:ro") from error


def add_share(name: str, wanted: ShareSpec, ctx: CommandContext) -> Share:
    """Add a share to the guest ``name``, which is off; return the share with its directory on libvirt's host."""
    with _hold_for_change(name, ctx) as guest:
        hypervisor = guest.hypervisor
        if any(each.tag == wanted.tag for each in guest.shares):
            raise VirtrootError(
                f"{name} already has a share {wanted.tag}", f"use another tag, or run ./inv unshare {name} {wanted.tag}"
            )
        taken = {
            point: tag for tag, point in shares.read_mount_points(guest.target, guest.root).items() if tag != wanted.tag
        }
        if wanted.point in taken:
            raise VirtrootError(f"{name} mounts {taken[wanted.point]} at {wanted.point}", "use another path")
        [found] = hostdir.resolve(hypervisor, pool.ensure_directory(hypervisor, ctx.settings), [wanted], of=guest.uuid)
        hostdir.make_directories(guest.target, [found])
        # fstab first: its line without a device does no harm, but a device without a line is not mounted.
        shares.add_mount(guest.target, guest.root, found, wanted.point)
        definition = virtiofsd_wrapper.refresh(hypervisor, guest.uuid, guest.boot)
        wrapper = virtiofsd_wrapper.choose_for_share(definition).path
        host_files.install_wrapper(guest.target, wrapper)
        attached = _change_device(guest, "attach-device", found, wrapper)
        if attached:
            shares.remove_mount(guest.target, guest.root, wanted.tag)
            raise VirtrootError(f"libvirt cannot attach the share to {name}", "see libvirt's message above", attached)
    return found


def unshare(name: str, tag: str, ctx: CommandContext) -> str:
    """Remove the share ``tag`` from the guest ``name``, which is off; return its directory, which stays as it is."""
    with _hold_for_change(name, ctx) as guest:
        found = next((each for each in guest.shares if each.tag == tag), None)
        if found:
            virtiofsd_wrapper.refresh(guest.hypervisor, guest.uuid, guest.boot)
            refused = _change_device(guest, "detach-device", found)
            if refused:
                raise VirtrootError(f"libvirt cannot detach the share {tag}", "see libvirt's message above", refused)
        # A killed task may have left the line without a device.
        line = (found is not None or tag not in ROOT_TAGS) and shares.remove_mount(guest.target, guest.root, tag)
        if not found and not line:
            has = ", ".join(each.tag for each in guest.shares) or "none"
            raise VirtrootError(f"{name} has no share {tag}", f"use an existing share: {has}")
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

    ``size`` is in bytes, or None if measuring it takes too long.
    """

    name: str
    directory: str
    size: int | None
    guests: list[User]


def list_rows(ctx: CommandContext) -> list[Row]:
    """Return a row for each named share, used or not, and for each other directory that a guest shares."""
    hypervisor = ctx.hypervisor
    target = hypervisor.target
    names = hostdir.list_named(target, pool.find_directory(hypervisor, ctx.settings) or ctx.settings.pool_path)
    users: dict[str, list[User]] = {path: [] for path in names}
    for guest in guests.list_guests(hypervisor):
        for each in guest.shares:
            users.setdefault(each.directory, []).append(User(guest.name, each.tag, each.readonly))
    return [Row(names.get(path, ""), path, hostdir.measure_size(target, path), users[path]) for path in sorted(users)]


def format_table(rows: list[Row]) -> str:
    """Return a list as a table for people: SHARE SIZE GUESTS; empty if there are no shares."""
    if not rows:
        return ""
    lines = [("SHARE", "SIZE", "GUESTS")]
    for row in rows:
        users = ", ".join(f"{each.guest} ({each.tag}{', ro' * each.readonly})" for each in row.guests)
        lines.append((row.name or row.directory, size(row.size), users or "-"))
    return table(lines)


@contextmanager
def _hold_for_change(name: str, ctx: CommandContext) -> Iterator[Guest]:
    off = f"run ./inv stop {name} first: shares can be changed only while the guest is off"
    with hold.hold(ctx.hypervisor, name, off=off) as guest:
        guest.mount_layers()
        yield guest


def _change_device(guest: Guest, how: str, share: Share, binary: str = "") -> str:
    """Make libvirt attach or detach the share's device; return its error message, empty on success."""
    xml = ET.tostring(shares.make_device(share, binary))
    done = guest.hypervisor.virsh(how, guest.uuid, "/dev/stdin", "--config", stdin=xml, check=False)
    return (done.complaint or "no reason given") if done.returncode else ""


@task(
    name="share",
    help={
        **GUEST,
        "share": "TAG:HOSTDIR:GUESTPATH[:ro][:create]; HOSTDIR is a directory of libvirt's host, or a name",
    },
)
def share_task(
    c: Context,
    name: str,
    share: str,
) -> None:
    """Add a share to a guest that is off.

    ./inv share web data:/srv/data:/srv/data:ro
    """
    given = add_share(name, parse_share(share), context_of(c))
    say(f"{name} has {given.directory} as {given.tag} from its next start")


@task(name="unshare", help={**GUEST, "tag": "the share's tag"})
def unshare_task(
    c: Context,
    name: str,
    tag: str,
) -> None:
    """Remove a share from a guest that is off; the directory stays.

    ./inv unshare web data
    """
    directory = unshare(name, tag, context_of(c))
    say(f"removed the share {tag} of {name}{f'; {directory} stays as it is' if directory else ''}")
