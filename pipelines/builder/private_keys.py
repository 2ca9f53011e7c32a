"""Finds private keys in a root. All guests made from it would share them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.log import say, warn
from pipelines.recipe import machine_specific
from pipelines.target.target import Target
from pipelines.text import one_line, split_lines

#: The maximum size in bytes of a file to read, the number of files to read, and the number of paths to return.
_MAX_SIZE, _MAX_FILES, _MAX_FOUND = 16 << 10, 50_000, 200

#: Bytes that the command may print, and seconds that it may take: a recipe's commands may have replaced it.
_LIMIT, _TIMEOUT = 1 << 20, 300

#: PEM and OpenSSH; OpenPGP as gpg-agent stores it; WireGuard in files of wg-quick, networkd and NetworkManager.
_CONTENT = (
    "^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----",
    r"^(Key: )?\(([0-9]+:)?(protected-)?private-key",
    "^[[:space:]]*(PrivateKey|private-key)[[:space:]]*=[[:space:]]*[A-Za-z0-9+/]{43}=",
)

#: Prints the paths in the directory $1. find follows no link, and package databases have no keys.
SCRIPT = """
cd "$1"; files=$2 found=$3 size=$4 content=$5; shift 5
{
    for place in etc home root var/lib; do
        [ -d "$place" ] && [ ! -L "$place" ] || continue
        find "$place" -xdev "(" -path var/lib/dpkg -o -path var/lib/apt -o -path var/lib/pacman ")" -prune \
            -o -type f -size "-${size}c" -print0
    done | head -z -n "$files" | xargs -0 -r grep -lE -e "$content" -- || :
    for path do if [ -f "$path" ] && [ ! -L "$path" ]; then printf '%s\\n' "$path"; fi; done
} | head -n "$found"
"""


def make_command(root: str) -> tuple[str, ...]:
    """Return the command that prints the private keys in ``root``, one path per line."""
    limits = (_MAX_FILES, _MAX_FOUND, _MAX_SIZE)
    content = "|".join(f"({each})" for each in _CONTENT)
    return ("sh", "-c", SCRIPT, "keys", root, *map(str, limits), content, *machine_specific.WATCHED)


def find(target: Target, root: str) -> tuple[str, ...]:
    """Return the paths of the private keys in ``root``, sorted."""
    text = target.run(make_command(root), limit=_LIMIT, timeout=_TIMEOUT).text
    return tuple(sorted({one_line(path) for path in split_lines(text)}))


@dataclass(frozen=True)
class Keys:
    """Private keys that packages or commands left in a root (``shared``), and keys and ids of its overlay."""

    shared: tuple[str, ...]
    from_overlay: tuple[str, ...] = ()

    def report(self) -> None:
        """Print the overlay's keys, and warn about the others."""
        if self.from_overlay:
            say(f"all guests will share these keys or ids of the overlay: {_format_paths(self.from_overlay)}")
        warn_about(self.shared)


def classify(found: Sequence[str], overlay_paths: Iterable[str] = ()) -> Keys:
    """Split the keys ``found`` in a root into those of the overlay, whose files are ``overlay_paths``, and others."""
    there = {*overlay_paths}
    own = {path for path in found if path in there} | {path for path in there if machine_specific.is_material(path)}
    return Keys(tuple(path for path in found if path not in there), tuple(sorted(own)))


def warn_about(keys: Sequence[str]) -> None:
    """Warn about private keys that all guests of a root share, if there are any."""
    if keys:
        warn(
            f"all guests of this root share these private keys: {_format_paths(keys)}; "
            "delete them in the recipe, or generate them in the guest"
        )


def _format_paths(paths: Iterable[str]) -> str:
    named = [f"/{path}" for path in paths]
    return ", ".join(named[:5]) + (f", and {len(named) - 5} more" if len(named) > 5 else "")
