"""A share: a directory of libvirt's machine that a guest mounts beside its root, as people write it."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

#: Bytes of a tag that virtio leaves room for.
LONGEST_TAG = 36

#: The tag of a guest's root; see the plan's kernel command line.
ROOT_TAG = "root"

#: The tag of a root's /usr, where that is a device of its own; see the guest's ``cache``.
USR_TAG = "usr"

#: The tags that no share has.
ROOT_TAGS = (ROOT_TAG, USR_TAG)

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORDS = ("ro", "create")

#: Where a mount would hide what a guest needs to come up.
_NEEDED = ("/", "/etc", "/run", "/usr", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool")
#: The same, and below it.
_WHOLLY_NEEDED = (
    "/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/lib", "/usr/lib32",
    "/usr/lib64", "/usr/libexec", "/usr/sbin", "/etc/dbus-1", "/etc/pam.d", "/etc/security", "/etc/ssh", "/etc/systemd",
    "/etc/udev", "/run/dbus", "/run/systemd", "/run/udev", "/run/user", "/var/lib/dbus", "/var/lib/dpkg",
    "/var/lib/pacman", "/var/lib/systemd",
)  # fmt: skip


@dataclass(frozen=True)
class ShareSpec:
    """``TAG:HOSTDIR:GUESTPATH[:ro][:create]``.

    ``source`` is a directory of libvirt's machine, or a name: a directory in the pool that virtroot makes. ``point`` is
    where the guest mounts it. ``readonly`` is enforced by the host; ``create`` makes a missing directory.
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
    """Read a share; raises ValueError for what is none.

    What was ``recorded`` was held to the rules of its day for where a share may be mounted, and is not to today's.
    """
    tag, *rest = text.split(":")
    words = tuple(rest[2:])
    if len(rest) < 2 or any(word not in _WORDS for word in words) or len(set(words)) < len(words):
        raise ValueError(f"{text!r} is no share; write it like TAG:HOSTDIR:GUESTPATH, with :ro and :create behind it")
    return ShareSpec(_tag(tag), _source(rest[0]), _point(rest[1], recorded=recorded), "ro" in words, "create" in words)


def refuse_doubles(shares: tuple[ShareSpec, ...]) -> None:
    """Raise ValueError where two shares of one guest have the same tag or mount point."""
    for what, values in (("tag", [share.tag for share in shares]), ("path", [share.point for share in shares])):
        double = next((value for value in values if values.count(value) > 1), None)
        if double:
            raise ValueError(f"two shares have the {what} {double!r}; give each its own")


def _tag(tag: str) -> str:
    if len(tag.encode(errors="replace")) > LONGEST_TAG:
        raise ValueError(f"the tag {tag!r} has more than {LONGEST_TAG} bytes, which is all that virtio has room for")
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag: begin with a letter or digit; then letters, digits, and . _ -")
    if tag in ROOT_TAGS:
        raise ValueError(f"the tag {tag!r} is that of the guest's root; choose another one")
    return tag


def _source(source: str) -> str:
    if not source.startswith("/"):
        if not _NAME.fullmatch(source) or ".." in source:
            raise ValueError(
                f"{source!r} is no directory of the host's: give a whole path, or a name of letters, digits and . _ -"
            )
        return source
    if not source.isprintable():
        raise ValueError(f"{source!r}: a path with control characters is not shared")
    return posixpath.normpath(source).replace("//", "/")


def _point(point: str, *, recorded: bool) -> str:
    if not point.startswith("/") or ".." in point.split("/") or not point.isprintable():
        raise ValueError(f"{point!r} is no path to mount at in a guest: it begins with / and has no .. in it")
    clean = posixpath.normpath(point).replace("//", "/")
    if recorded:
        return clean
    if clean in _NEEDED or f"{clean}/".startswith(tuple(f"{each}/" for each in _WHOLLY_NEEDED)):
        raise ValueError(f"a share at {clean} would hide what the guest needs; mount it elsewhere, like /srv/data")
    return clean
