"""The parser of a share: a directory of libvirt's host that a guest mounts in addition to its root."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

#: The maximum length of a tag in bytes, from virtio's specification.
LONGEST_TAG = 36

#: The tag of a guest's root; see the plan's kernel command line.
ROOT_TAG = "root"

#: The tag of a root's /usr if that has a device of its own; see ``cache`` of a recipe's guest.
USR_TAG = "usr"

#: The tags that a share must not have.
ROOT_TAGS = (ROOT_TAG, USR_TAG)

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FLAGS = ("ro", "create")

#: Directories where a mount would hide what a guest needs to boot.
_NEEDED = ("/", "/etc", "/run", "/usr", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool")
#: Directories where a mount, at the directory or below it, would hide what a guest needs to boot.
_NEEDED_TREES = (
    "/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/lib", "/usr/lib32",
    "/usr/lib64", "/usr/libexec", "/usr/sbin", "/etc/dbus-1", "/etc/pam.d", "/etc/security", "/etc/ssh", "/etc/systemd",
    "/etc/udev", "/run/dbus", "/run/systemd", "/run/udev", "/run/user", "/var/lib/dbus", "/var/lib/dpkg",
    "/var/lib/pacman", "/var/lib/systemd",
)  # fmt: skip


@dataclass(frozen=True)
class ShareSpec:
    """A share, written ``TAG:HOSTDIR:GUESTPATH[:ro][:create]``.

    ``source`` is a directory of libvirt's host, or the name of a directory in the pool that virtroot creates.
    ``point`` is the mount point in the guest. The host enforces ``readonly``; ``create`` creates a missing directory.
    """

    tag: str
    source: str
    point: str
    readonly: bool = False
    create: bool = False

    @property
    def named(self) -> bool:
        """Whether ``source`` is a name."""
        return not self.source.startswith("/")


def parse(text: str, *, recorded: bool = False) -> ShareSpec:
    """Parse a share. Raises ValueError for an invalid one.

    With ``recorded`` any mount point is accepted: the share was checked when it was recorded, and the rules may have
    become stricter since.
    """
    tag, *rest = text.split(":")
    flags = tuple(rest[2:])
    if len(rest) < 2 or any(flag not in _FLAGS for flag in flags) or len(set(flags)) < len(flags):
        raise ValueError(f"invalid share {text!r}; use TAG:HOSTDIR:GUESTPATH[:ro][:create]")
    return ShareSpec(
        _parse_tag(tag),
        _parse_source(rest[0]),
        _parse_point(rest[1], recorded=recorded),
        "ro" in flags,
        "create" in flags,
    )


def refuse_duplicates(shares: tuple[ShareSpec, ...]) -> None:
    """Raise ValueError if two shares of one guest have the same tag or mount point."""
    for what, values in (("tag", [share.tag for share in shares]), ("path", [share.point for share in shares])):
        double = next((value for value in values if values.count(value) > 1), None)
        if double:
            raise ValueError(f"two shares have the {what} {double!r}; use different ones")


def _parse_tag(tag: str) -> str:
    if len(tag.encode(errors="replace")) > LONGEST_TAG:
        raise ValueError(f"tag {tag!r}: longer than {LONGEST_TAG} bytes, the maximum of virtio")
    if not _TAG.fullmatch(tag):
        raise ValueError(f"invalid tag {tag!r}: start with a letter or digit; then letters, digits, and . _ -")
    if tag in ROOT_TAGS:
        raise ValueError(f"tag {tag!r}: reserved for the guest's root; use another one")
    return tag


def _parse_source(source: str) -> str:
    if not source.startswith("/"):
        if not _NAME.fullmatch(source) or ".." in source:
            raise ValueError(
                f"invalid share source {source!r}: use an absolute path, or a name of letters, digits and . _ -"
            )
        return source
    if not source.isprintable():
        raise ValueError(f"invalid share source {source!r}: control characters in the path")
    return posixpath.normpath(source).replace("//", "/")


def _parse_point(point: str, *, recorded: bool) -> str:
    if not point.startswith("/") or ".." in point.split("/") or not point.isprintable():
        raise ValueError(f"invalid mount point {point!r}: use an absolute path without ..")
    clean = posixpath.normpath(point).replace("//", "/")
    if recorded:
        return clean
    if clean in _NEEDED or f"{clean}/".startswith(tuple(f"{each}/" for each in _NEEDED_TREES)):
        raise ValueError(f"mount point {clean}: would hide files that the guest needs; use another, like /srv/data")
    return clean
