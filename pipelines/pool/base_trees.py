"""Golden trees: an artifact unpacked once in the pool, and then never written to, that guests' roots are made from."""

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

#: Beside the tree: the digest that it had when it was unpacked.
_DIGEST = "digest"

# The path, and a line of JSON, of each, also of what a task that was killed left under a hidden name. A hidden root is
# not looked into: it is a guest's.
_DESCRIPTIONS = """
for each in "$1"/snapshots.*/*/about "$1"/former.*/*/about/made "$1"/former.*/*/next/made \\
    "$1"/.root.*@*-upgrade/about/made "$1"/.root.*@*-upgrade/next/made "$1"/.root.*@*-upgrade/coming \\
    "$1"/.root.*@*-snapshots/*/about "$1"/.root.*@*-formers/*/about/made; do
    [ ! -f "$each" ] || { printf '%s\t' "$each"; cat -- "$each"; echo; }
done
"""

#: Returns the names of the guests whose roots are layers on a golden tree.
LyingOn = Callable[[str], list[str]]

#: Somebody else may delete a golden tree between its making and its use so many times.
_ATTEMPTS = 3

#: Seconds that another task may take to unpack a golden tree, or to copy it.
_PATIENCE = 3600


@dataclass(frozen=True)
class BaseTree:
    """A golden tree: its directory, and the digest of the tree in it; see `layers.digest`."""

    path: str
    digest: str

    @property
    def tree(self) -> str:
        """The tree itself."""
        return f"{self.path}/{TREE}"


@contextmanager
def held(target: Target, pool: str, artifact: Artifact, lying_on: LyingOn) -> Iterator[BaseTree]:
    """Yield the golden tree of ``artifact``, unpacked where there is none; nobody deletes it meanwhile.

    Raises `VirtrootError` for a damaged artifact, and for a golden tree that was changed and that a guest lies on.
    """
    # By content: builds that are equal have one.
    key = f"{artifact.manifest.name}.{artifact.manifest.rootfs.sha256[:16]}"
    path, file, what = place.golden(pool, key), place.golden_lock(key), f"the golden tree of {artifact.id}"
    for _ in range(_ATTEMPTS):
        with ExitStack() as stack:
            stack.enter_context(lock.on(target, file, what, wait=_PATIENCE, shared=True))
            found = _whole(target, path)
            if found:
                yield found
                return
        with lock.on(target, file, what, wait=_PATIENCE):
            if not _whole(target, path):
                _make(target, path, artifact, lying_on)
    raise VirtrootError(f"{what} is deleted as soon as it is made", "see whether ./inv prune runs again and again")


def _whole(target: Target, path: str) -> BaseTree | None:
    """Return the golden tree in ``path`` if it is what was unpacked."""
    recorded = target.run(["cat", f"{path}/{_DIGEST}"], check=False)
    if recorded.returncode:
        return None
    found = BaseTree(path, recorded.text)
    same = subvolume.closed(target, found.tree) or programs.digest(target, found.tree) == found.digest
    return found if same else None


def whole(target: Target, path: str) -> bool:
    """Say whether the golden tree in ``path`` is what was unpacked."""
    return _whole(target, path) is not None


def digest(target: Target, path: str) -> str:
    """Return the digest that the golden tree in ``path`` has now; empty where there is none."""
    try:
        return programs.digest(target, f"{path}/{TREE}")
    except VirtrootError:
        return ""


def named(entry: str) -> str:
    """Return the key of the golden tree that is called ``entry`` in its pool; empty for anything else."""
    match = _NAME.fullmatch(entry)
    return match["key"] if match else ""


def left_of(entry: str) -> str:
    """Return the key of the golden tree of which a task has under way, or left, what is called ``entry``."""
    name, at, _ = entry.removeprefix(".").partition("@")
    return named(name) if at and entry.startswith(".") else ""


def sweep(target: Target, path: str) -> None:
    """Delete what killed tasks left of a golden tree; raises `lock.Busy` where one is being made."""
    key = named(path.rpartition("/")[2])
    with lock.on(target, place.golden_lock(key), f"the golden tree {key}"):
        mounts.delete(target, *_leftovers(target, path))


def _make(target: Target, path: str, artifact: Artifact, lying_on: LyingOn) -> None:
    """Unpack a golden tree in place of what is there; the caller holds its lock."""
    if target.run(["test", "-e", path], check=False).returncode == 0:
        _refuse_needed(path, lying_on(path))
        say(f"{path} was changed: it is unpacked anew")
        mounts.delete(target, path)
    mounts.delete(target, *_leftovers(target, path))
    with step("checking the artifact"):
        artifact.refuse_damaged()
    pool, _, name = path.rpartition("/")
    partial = f"{pool}/.{name}@{secrets.token_hex(4)}"
    try:
        with step("unpacking the golden tree"):
            target.run(["mkdir", "--mode=0700", partial])
            subvolume.make(target, f"{partial}/{TREE}")
            with artifact.tarball.open("rb") as content:
                target.run(archive.unpack_argv(f"{partial}/{TREE}"), stdin=content)
            subvolume.close(target, f"{partial}/{TREE}")
            digest = programs.digest(target, f"{partial}/{TREE}")
            target.run(["sh", "-ec", 'cat > "$1"', "record", f"{partial}/{_DIGEST}"], stdin=digest.encode())
            durable.rename(target, partial, path)
    except BaseException:
        # The reason why it failed is what the user has to see; the next one clears what stays now.
        with suppress(VirtrootError):
            mounts.delete(target, partial)
        raise


def _refuse_needed(path: str, layered: list[str]) -> None:
    if layered:
        raise VirtrootError(
            f"the golden tree {path} was changed, and {', '.join(layered)} lies on it",
            "put it back as it was (a copy does not do), or remove that guest",
        )


def _leftovers(target: Target, path: str) -> list[str]:
    """Return what killed tasks left of a golden tree whose lock the caller holds."""
    pool, _, name = path.rpartition("/")
    listed = target.run(["find", pool, "-maxdepth", "1", "-name", f".{name}@*", "-print0"])
    return [found for found in listed.text.split("\0") if found]


def unused(hypervisor: Hypervisor, pool: str, recipes: list[str], *, without: Collection[str] = ()) -> list[str]:
    """Return the golden trees in ``pool`` of ``recipes`` (any, where none is named) that no domain was made from.

    The former roots and snapshots in ``without`` are about to go.
    """
    listed = hypervisor.target.run(["find", pool, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-print0"])
    found = (
        (path, _NAME.fullmatch(path.rpartition("/")[2]))
        for path in listed.stdout.decode(errors="surrogateescape").split("\0")
    )
    ours = [path for path, match in found if match and (not recipes or match["recipe"] in recipes)]
    kept = _kept_for(hypervisor, pool, without)
    return [path for path in sorted(ours) if not hypervisor.naming(path) and path not in kept]


def _kept_for(hypervisor: Hypervisor, pool: str, without: Collection[str] = ()) -> set[str]:
    """Return the golden trees in ``pool`` that a snapshot or a former root of some guest lies on."""
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
    """Delete a golden tree unless a guest is made from it, or was meanwhile; say whether it is gone."""
    name = path.rpartition("/")[2]
    try:
        with lock.on(hypervisor.target, place.golden_lock(name.removeprefix("golden.")), f"the golden tree {name}"):
            if hypervisor.naming(path) or path in _kept_for(hypervisor, path.rpartition("/")[0]):
                return False
            mounts.delete(hypervisor.target, path, *_leftovers(hypervisor.target, path))
            return True
    except lock.Busy:
        return False
