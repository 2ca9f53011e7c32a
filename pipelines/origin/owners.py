"""Checks the owners of an existing system's files: correct, shifted as in a container, or lost."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.errors import VirtrootError

#: Paths that belong to root in every system. The programs are setuid ones, of which some may be missing.
ASKED = (
    ".", "usr", "etc", "var", "usr/bin", "usr/lib", "etc/passwd", "usr/bin/su", "usr/bin/passwd", "usr/bin/mount",
    "usr/bin/sudo", "bin/su", "bin/mount",
)  # fmt: skip

#: The minimum offset of a user namespace, and its number of ids; see subuid(5).
LEAST, RANGE = 65536, 65536


def compute_shift(owners: Mapping[str, tuple[int, int, int]]) -> int:
    """Return the offset of the ids in a tree with these ``owners``; 0 if they are not shifted.

    The root directory itself is ignored: it belongs to the user who created it to unpack a tarball. Raises
    VirtrootError if the owners are neither root nor all shifted.
    """
    ids = {path: each[:2] for path, each in owners.items() if path != "."}
    strange = {path: each for path, each in ids.items() if each != (0, 0)}
    # A setuid program of root may have another group.
    strange = {path: each for path, each in strange.items() if each[0] or path in {"usr", "etc", "usr/bin", "usr/lib"}}
    if not strange:
        return 0
    path, (user, group) = next(iter(strange.items()))
    users = {each[0] for each in ids.values()}
    if len(users) == 1 and user >= LEAST and all(ids.get(each, (user, user))[1] == user for each in ("usr", "etc")):
        return user
    if len(users) == 1:
        raise VirtrootError(
            f"everything belongs to user {user}, even {path} and setuid programs: the tree was copied without root",
            "copy it again as root, with its owners (tar --numeric-owner, rsync -aHAX --numeric-ids)",
        )
    raise VirtrootError(
        f"{path} belongs to user {user} and group {group}, not to root",
        "fix the owners in the system first, or copy it again as root with its owners",
    )


def refuse_shifted(owners: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise VirtrootError if owners are shifted or lost."""
    offset = compute_shift(owners)
    if offset:
        raise VirtrootError(
            f"the owners are shifted by {offset}, as in an unprivileged container: files of root belong to {offset}",
            "use --shift-ids auto to shift them back",
        )


def get_offset(asked: str, owners: Mapping[str, tuple[int, int, int]]) -> int:
    """Return the offset to shift ids back by, from the option's value ``asked``, a number or ``auto``.

    Raises VirtrootError for an invalid value, and for ``auto`` if the owners are not shifted.
    """
    if asked == "auto":
        found = compute_shift(owners)
        if not found:
            raise VirtrootError("the owners are not shifted: root's files belong to root", "omit --shift-ids")
        return found
    if not asked.isdigit() or not LEAST <= int(asked) < 1 << 32:
        raise VirtrootError(
            f"--shift-ids: not a number of at least {LEAST}: {asked!r}",
            "use the first user id of the container, or auto",
        )
    return int(asked)
