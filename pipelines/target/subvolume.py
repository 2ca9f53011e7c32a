"""Subvolumes of btrfs: directories that can be copied at once, as a snapshot; see btrfs-subvolume(8)."""

from __future__ import annotations

from pipelines.target.target import Target
from pipelines.text import trim

# Only the top directory of a subvolume has the inode 256.
_IS = """
may_have_subvolumes() {
    [ "$(stat --file-system --format=%T -- "$1" 2>/dev/null)" = btrfs ] && command -v btrfs > /dev/null
}
is_subvolume() {
    [ "$(stat --format=%i -- "$1" 2>/dev/null)" = 256 ] && may_have_subvolumes "$1"
}
"""

_MAKE = """
if may_have_subvolumes "${1%/*}"; then
    btrfs subvolume create "$1" >&2
else
    mkdir -- "$1"
fi
chmod 0755 -- "$1"
"""

# A snapshot contains an empty directory for each subvolume inside its source.
_SNAPSHOT = """
btrfs subvolume snapshot "$1" "$2" >&2
[ "$3" ] || exit 0
find "$1" -mindepth 1 -type d -inum 256 -printf '%P\\0' | xargs -0 -r -n 1 sh -ec '
    rmdir -- "$2/$3"; btrfs subvolume snapshot "$1/$3" "$2/$3" >&2
' inner "$1" "$2"
"""

_DELETE = """
for path do
    may_have_subvolumes "$path" || continue
    # Nothing can be deleted in a read-only subvolume.
    find "$path" -type d -inum 256 -exec btrfs property set -ts {} ro false \\;
    find "$path" -depth -type d -inum 256 -exec btrfs --quiet subvolume delete -- {} +
done
exec rm -rf --one-file-system -- "$@"
"""


def possible(target: Target, directory: str) -> bool:
    """Return whether subvolumes can be made in ``directory``: it is on btrfs, and the program btrfs is installed."""
    argv = ["sh", "-c", f'{_IS}may_have_subvolumes "$1"', "possible", directory]
    return target.run(argv, check=False).returncode == 0


def is_one(target: Target, path: str) -> bool:
    """Return whether ``path`` is a subvolume."""
    return target.run(["sh", "-c", f'{_IS}is_subvolume "$1"', "is", path], check=False).returncode == 0


def make(target: Target, path: str) -> None:
    """Make the directory ``path``, mode 0755, as a subvolume if that is possible."""
    target.run(["sh", "-ec", _IS + _MAKE, "make", path])


def close(target: Target, path: str) -> None:
    """Make ``path`` read-only if it is a subvolume."""
    target.run(["sh", "-ec", f'{_IS}if is_subvolume "$1"; then btrfs property set -ts "$1" ro true; fi', "close", path])


def closed(target: Target, path: str) -> bool:
    """Return whether ``path`` is a read-only subvolume."""
    script = f'{_IS}is_subvolume "$1" && btrfs property get -ts "$1" ro'
    return trim(target.run(["sh", "-c", script, "closed", path], check=False).text) == "ro=true"


def snapshot(target: Target, source: str, destination: str, *, nested: bool) -> None:
    """Make the snapshot ``destination`` of the subvolume ``source``; with ``nested`` of those inside it too."""
    target.run(["sh", "-ec", _SNAPSHOT, "snapshot", source, destination, "nested" if nested else ""])


def delete(target: Target, *paths: str) -> None:
    """Delete trees, and the subvolumes in them. Links are not followed."""
    target.run(["sh", "-ec", _IS + _DELETE, "delete", *paths])
