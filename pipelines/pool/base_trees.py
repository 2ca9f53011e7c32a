"""Base trees: an artifact that is unpacked once in the pool and never written to. Guests' roots are cloned from it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, step
from pipelines.pool import place
from pipelines.target import durable, lock, mounts, programs, subvolume
from pipelines.target.payload.layers import TREE
from pipelines.target.target import Target
from pipelines.text import split_lines

_NAME = re.compile(r"golden\.(?P<key>(?P<recipe>.+)\.[0-9a-f]{16})")

#: The file next to the tree with the digest that the tree had when it was unpacked.
_DIGEST_FILE = "digest"

# Prints the path and one line of JSON of each description, including those that killed tasks left under hidden names.
# Hidden roots themselves are not searched: their content is the guest's.
_DESCRIPTIONS = """
for each in "$1"/snapshots.*/*/about "$1"/former.*/*/about/made "$1"/former.*/*/next/made \\
    "$1"/.root.*@*-upgrade/about/made "$1"/.root.*@*-upgrade/next/made "$1"/.root.*@*-upgrade/coming \\
    "$1"/.root.*@*-snapshots/*/about "$1"/.root.*@*-formers/*/about/made; do
    [ ! -f "$each" ] || { printf '%s\t' "$each"; cat -- "$each"; echo; }
done
"""

#: Returns the names of the guests whose roots are layers on a base tree.
FindGuestsOn = Callable[[str], list[str]]

#: How often another task may delete the base tree between its creation and its use.
_ATTEMPTS = 3

#: Seconds to wait for another task that unpacks or copies a base tree.
_LOCK_SECONDS = 3600


@dataclass(frozen=True)
class BaseTree:
    """The directory of a base tree, and the digest of the tree in it; see `layers.digest`."""

    path: str
    digest: str

    @property
    def tree(self) -> str:
        """Return the path of the tree itself."""
        return f"{self.path}/{TREE}"


@contextmanager
def hold(target: Target, pool: str, artifact: Artifact, find_guests_on: FindGuestsOn) -> Iterator[BaseTree]:
    """Yield the base tree of ``artifact`` and hold its lock, so that no task deletes it; unpack it if it is missing.

    Raises `VirtrootError` if the artifact is damaged, or if the base tree was changed and a guest's root uses it.
    """
    # The key is the digest of the content, so that equal builds share one base tree.
    key = f"{artifact.manifest.name}.{artifact.manifest.rootfs.sha256[:16]}"
    path, file, what = place.base_tree(pool, key), place.base_tree_lock(key), f"the base tree of {artifact.id}"
    for _ in range(_ATTEMPTS):
        with ExitStack() as stack:
            stack.enter_context(lock.on(target, file, what, wait=_LOCK_SECONDS, shared=True))
            found = _find_unchanged(target, path)
            if found:
                yield found
                return
        with lock.on(target, file, what, wait=_LOCK_SECONDS):
            if not _find_unchanged(target, path):
                _unpack(target, path, artifact, find_guests_on)
    raise VirtrootError(
        f"{what} was deleted {_ATTEMPTS} times before its use", "check whether ./inv prune runs in a loop"
    )


def _find_unchanged(target: Target, path: str) -> BaseTree | None:
    """Return the base tree in ``path`` if its content is as it was unpacked, else None."""
    recorded = target.run(["cat", f"{path}/{_DIGEST_FILE}"], check=False)
    if recorded.returncode:
        return None
    found = BaseTree(path, recorded.text)
    same = subvolume.closed(target, found.tree) or programs.digest(target, found.tree) == found.digest
    return found if same else None


def is_unchanged(target: Target, path: str) -> bool:
    """Return whether the content of the base tree in ``path`` is as it was unpacked."""
    return _find_unchanged(target, path) is not None


def compute_digest(target: Target, path: str) -> str:
    """Return the current digest of the base tree in ``path``, or "" if there is none."""
    try:
        return programs.digest(target, f"{path}/{TREE}")
    except VirtrootError:
        return ""


def parse_key(entry: str) -> str:
    """Return the key of the base tree whose directory in the pool is named ``entry``, or "" for any other entry."""
    match = _NAME.fullmatch(entry)
    return match["key"] if match else ""


def parse_leftover_key(entry: str) -> str:
    """Return the key of the base tree that a task unpacked under the hidden name ``entry``, or "" for any other."""
    name, at, _ = entry.removeprefix(".").partition("@")
    return parse_key(name) if at and entry.startswith(".") else ""


def delete_leftovers(target: Target, path: str) -> None:
    """Delete what killed tasks left of the base tree ``path``; raises `lock.Busy` while a task unpacks it."""
    key = parse_key(path.rpartition("/")[2])
    with lock.on(target, place.base_tree_lock(key), f"the base tree {key}"):
        mounts.delete(target, *_list_leftovers(target, path))


def _unpack(target: Target, path: str, artifact: Artifact, find_guests_on: FindGuestsOn) -> None:
    """Unpack the base tree to ``path`` and replace what is there; the caller holds its lock."""
    if target.run(["test", "-e", path], check=False).returncode == 0:
        _refuse_in_use(path, find_guests_on(path))
        say(f"{path} was changed: unpacking it again")
        mounts.delete(target, path)
    mounts.delete(target, *_list_leftovers(target, path))
    with step("checking the artifact"):
        artifact.refuse_damaged()
    pool, _, name = path.rpartition("/")
    partial = f"{pool}/.{name}@{secrets.token_hex(4)}"
    try:
        with step("unpacking the base tree"):
            target.run(["mkdir", "--mode=0700", partial])
            subvolume.make(target, f"{partial}/{TREE}")
            with artifact.tarball.open("rb") as content:
                target.run(archive.unpack_argv(f"{partial}/{TREE}"), stdin=content)
            subvolume.close(target, f"{partial}/{TREE}")
            digest = programs.digest(target, f"{partial}/{TREE}")
            target.run(["sh", "-ec", 'cat > "$1"', "record", f"{partial}/{_DIGEST_FILE}"], stdin=digest.encode())
            durable.rename(target, partial, path)
    except BaseException:
        # An error of the deletion would hide the error that the user has to see; the next call deletes the leftovers.
        with suppress(VirtrootError):
            mounts.delete(target, partial)
        raise


def _refuse_in_use(path: str, layered: list[str]) -> None:
    if layered:
        raise VirtrootError(
            f"the base tree {path} was changed, and is used by {', '.join(layered)}",
            "restore its original content (a copy is not enough), or remove that guest",
        )


def _list_leftovers(target: Target, path: str) -> list[str]:
    """Return what killed tasks left of a base tree whose lock the caller holds."""
    pool, _, name = path.rpartition("/")
    listed = target.run(["find", pool, "-maxdepth", "1", "-name", f".{name}@*", "-print0"])
    return [found for found in listed.text.split("\0") if found]


def find_unused(hypervisor: Hypervisor, pool: str, recipes: list[str], *, without: Collection[str] = ()) -> list[str]:
    """Return the base trees in ``pool`` of ``recipes`` (of all recipes if empty) that no domain was made from.

    Previous roots and snapshots in ``without`` are ignored, since the caller is about to delete them.
    """
    listed = hypervisor.target.run(["find", pool, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-print0"])
    found = (
        (path, _NAME.fullmatch(path.rpartition("/")[2]))
        for path in listed.stdout.decode(errors="surrogateescape").split("\0")
    )
    ours = [path for path, match in found if match and (not recipes or match["recipe"] in recipes)]
    kept = _find_recorded(hypervisor, pool, without)
    return [path for path in sorted(ours) if not hypervisor.find_domains_using(path) and path not in kept]


def _find_recorded(hypervisor: Hypervisor, pool: str, without: Collection[str] = ()) -> set[str]:
    """Return the base trees in ``pool`` that a snapshot or a previous root of a guest is a layer on."""
    listed = split_lines(hypervisor.target.run(["sh", "-c", _DESCRIPTIONS, "descriptions", pool], check=False).text)
    found = set()
    for line in listed:
        path, _, described = line.partition("\t")
        if path.partition("/about")[0] in without:
            continue
        with suppress(ValueError, TypeError, KeyError):
            about = json.loads(described)
            found |= {about["golden"]} if about["lower"] else set()
    return found


def delete(hypervisor: Hypervisor, path: str) -> bool:
    """Delete a base tree unless a guest was made from it, also in the meantime; return whether it was deleted."""
    name = path.rpartition("/")[2]
    try:
        with lock.on(hypervisor.target, place.base_tree_lock(name.removeprefix("golden.")), f"the base tree {name}"):
            if hypervisor.find_domains_using(path) or path in _find_recorded(hypervisor, path.rpartition("/")[0]):
                return False
            mounts.delete(hypervisor.target, path, *_list_leftovers(hypervisor.target, path))
            return True
    except lock.Busy:
        return False
