"""The owners of an existing system's files: whether they are those that it had, or shifted ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.errors import VirtrootError

#: What belongs to root in every system. The programs are setuid ones, of which some may be missing.
ASKED = (
    ".", "usr", "etc", "var", "usr/bin", "usr/lib", "etc/passwd", "usr/bin/su", "usr/bin/passwd", "usr/bin/mount",
    "usr/bin/sudo", "bin/su", "bin/mount",
)  # fmt: skip

#: The least that user namespaces are shifted by, and how many ids one has; see subuid(5).
LEAST, RANGE = 65536, 65536


def shift(owners: Mapping[str, tuple[int, int, int]]) -> int:
    """Return by how much the ids of a tree with these ``owners`` are shifted; 0 where they are not.

    The root directory itself does not count: whoever makes a directory to unpack into owns it. Raises
    `VirtrootError` where the owners are neither root nor shifted as a whole.
    """
    ids = {path: each[:2] for path, each in owners.items() if path != "."}
    strange = {path: each for path, each in ids.items() if each != (0, 0)}
    # A setuid program that belongs to root may have a group of its own.
    strange = {path: each for path, each in strange.items() if each[0] or path in {"usr", "etc", "usr/bin", "usr/lib"}}
    if not strange:
        return 0
    path, (user, group) = next(iter(strange.items()))
    users = {each[0] for each in ids.values()}
    if len(users) == 1 and user >= LEAST and all(ids.get(each, (user, user))[1] == user for each in ("usr", "etc")):
        return user
    if len(users) == 1:
        raise VirtrootError(
            f"everything belongs to user {user}, {path} and setuid programs too: the tree was copied without root",
            "copy it again as root, and keep its owners (tar --numeric-owner, rsync -aHAX --numeric-ids)",
        )
    raise VirtrootError(
        f"{path} belongs to user {user} and group {group}, not to root",
        "restore the owners in the system first, or copy it again as root with its owners",
    )


def refuse_shifted(owners: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise `VirtrootError` where owners are shifted or lost."""
    offset = shift(owners)
    if offset:
        raise VirtrootError(
            f"the owners are shifted by {offset}, as in an unprivileged container: user {offset} owns what is root's",
            "--shift-ids auto moves them back",
        )


def offset(asked: str, owners: Mapping[str, tuple[int, int, int]]) -> int:
    """Return by how much to shift ids back: what is ``asked`` for (``auto`` finds it out); raises `VirtrootError`."""
    if asked == "auto":
        found = shift(owners)
        if not found:
            raise VirtrootError("the owners are not shifted: root's files belong to root", "leave out --shift-ids")
        return found
    if not asked.isdigit() or not LEAST <= int(asked) < 1 << 32:
        raise VirtrootError(
            f"--shift-ids {asked!r} is not a number from {LEAST} on", "give the first user id of the container, or auto"
        )
    return int(asked)
