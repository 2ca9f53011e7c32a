"""The private keys in a root: each guest that is made of it has the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.log import say, warn
from pipelines.recipe import machine_specific
from pipelines.target.target import Target
from pipelines.text import one_line, split_lines

#: Only files of fewer bytes are read, and no more files than that; of what is found no more paths are returned.
_LARGEST, _MOST_FILES, _MOST_FOUND = 16 << 10, 50_000, 200

#: Bytes that the command may print, and seconds that it may take: a recipe's commands may have replaced it.
_LIMIT, _TIMEOUT = 1 << 20, 300

#: PEM and OpenSSH; OpenPGP's, as gpg-agent keeps them; WireGuard in the files of wg-quick, networkd and NetworkManager.
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


def argv(root: str) -> tuple[str, ...]:
    """Return the command that prints the private keys in ``root``, a path a line."""
    limits = (_MOST_FILES, _MOST_FOUND, _LARGEST)
    content = "|".join(f"({each})" for each in _CONTENT)
    return ("sh", "-c", SCRIPT, "keys", root, *map(str, limits), content, *machine_specific.WATCHED)


def find(target: Target, root: str) -> tuple[str, ...]:
    """Return the paths of the private keys in ``root``, sorted."""
    text = target.run(argv(root), limit=_LIMIT, timeout=_TIMEOUT).text
    return tuple(sorted({one_line(path) for path in split_lines(text)}))


@dataclass(frozen=True)
class Keys:
    """Private keys that packages or commands left in a root, and keys and ids that its overlay brings."""

    shared: tuple[str, ...]
    from_overlay: tuple[str, ...] = ()

    def report(self) -> None:
        """Name the overlay's, and warn of the others."""
        if self.from_overlay:
            say(f"the overlay brings keys or ids that each guest will share: {_listed(self.from_overlay)}")
        warn_of(self.shared)


def sort_out(found: Sequence[str], overlay_paths: Iterable[str] = ()) -> Keys:
    """Return whose the keys are that were ``found`` in a root with these files of an overlay."""
    there = {*overlay_paths}
    own = {path for path in found if path in there} | {path for path in there if machine_specific.is_material(path)}
    return Keys(tuple(path for path in found if path not in there), tuple(sorted(own)))


def warn_of(keys: Sequence[str]) -> None:
    """Warn of private keys that each guest of a root has, if there are any."""
    if keys:
        warn(
            f"each guest of this root has the same private keys: {_listed(keys)}; "
            "let the recipe delete them, or make them in the guest"
        )


def _listed(paths: Iterable[str]) -> str:
    named = [f"/{path}" for path in paths]
    return ", ".join(named[:5]) + (f", and {len(named) - 5} more" if len(named) > 5 else "")
