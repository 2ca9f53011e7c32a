"""Inventories of a guest's root: the baseline (as it was built), at install, and now.

The baseline lies in the guest's boot directory. Builds are pruned long before the guests that were made from them, so a
guest keeps all that has to be known of its own build.
"""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest, Package
from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.log import step
from pipelines.pool import place
from pipelines.pool.base_trees import BaseTree
from pipelines.target import mounts, programs
from pipelines.target.target import Target

_INVENTORY = "survey.json"


@dataclass(frozen=True)
class Configured:
    """Describe an entry of /etc, or an entry of a package elsewhere.

    ``kind`` is directory, file, link or other. ``content`` is the sha256 of a file, the path that a link has, and words
    for an entry of kind other. ``attributes`` is the digest of ACL, capabilities and other attributes; empty for none.

    ``as_packaged`` says that the file is the one of the installed version of its package. ``package`` has the entry,
    and ``to`` has the file that a link leads to; both are empty where no package does. Outside /etc links have
    ``modified``, and their ``content`` may be empty as in `Unowned`.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    content: str = ""
    size: int = 0
    as_packaged: bool = False
    package: str = ""
    to: str = ""
    modified: int = 0
    attributes: str = ""


@dataclass(frozen=True)
class Unowned:
    """Describe an entry outside /etc that no package has.

    A ``tree`` is a directory with ``entries`` below it, of which ``files`` are not directories. Sizes are in bytes.
    ``content`` is the path that a link has, empty where the link was not read, and ``to`` the package that has the file
    there. ``digest`` is the digest of a tree. Records of earlier versions have no ``mode``, ``gid`` and digests. An
    entry that once was unowned and is a package's now has the kind ``owned``.
    """

    kind: str
    uid: int
    size: int = 0
    modified: int = 0
    entries: int = 0
    files: int = 0
    mode: int | None = None
    gid: int | None = None
    content: str = ""
    to: str = ""
    digest: str = ""
    attributes: str = ""


Entry = TypeVar("Entry", Configured, Unowned)


@dataclass(frozen=True)
class Inventory:
    """Hold what is in a root in addition to the files of its packages; paths have no slash before them.

    ``owned`` are entries of packages whose owner, mode or kind differs from most, and ``missing`` are entries of
    packages that are not there, with their package. Records of earlier versions have neither. ``decisions`` are
    settings of the package manager, by kind; the program that takes the inventory lists the kinds. Records of earlier
    versions have no decisions, and those without ``has_attributes`` have no attributes and special files.
    """

    packages: tuple[Package, ...]
    etc: dict[str, Configured]
    unowned: dict[str, Unowned]
    edited: tuple[str, ...] = ()
    contents: dict[str, bytes] = field(default_factory=dict)
    owned: dict[str, Configured] | None = None
    missing: dict[str, str] | None = None
    decisions: dict[str, dict[str, str]] | None = None
    has_attributes: bool = True


def write_baseline(target: Target, root: str, manifest: Manifest, boot: str, golden: BaseTree | None) -> None:
    """Write the inventory of ``root``, which is as it was built, to the boot directory ``boot``.

    Where the root was cloned from the base tree ``golden``, the inventory of that tree is taken once and copied.
    """
    target.run(["mkdir", "--parents", "--mode=0711", boot])
    if golden is None:
        programs.save_inventory(target, root, manifest.source_date_epoch, place.baseline(boot))
        return
    kept = _parse_if_valid(target.run(["cat", place.baseline(golden.path)], check=False).stdout)
    # Earlier versions recorded less.
    if kept is None or kept.owned is None or not kept.has_attributes:
        programs.save_inventory(target, golden.tree, manifest.source_date_epoch, place.baseline(golden.path))
    copy_baseline(target, golden.path, boot)


def copy_baseline(target: Target, boot: str, other: str) -> None:
    """Copy the baseline in the boot directory ``boot``, if there is one, to the directory ``other``."""
    script = 'if [ -f "$1" ]; then cp --reflink=auto -- "$1" "$2"; fi'
    target.run(["sh", "-ec", f"umask 077; {script}", "copy", place.baseline(boot), place.baseline(other)])


def get_baseline(guest: Guest, manifest: Manifest, artifact: Artifact | None) -> Inventory:
    """Return the inventory of the guest's root as it was built.

    Where the guest has no readable one, ``artifact`` is unpacked to take it again. Raises `VirtrootError` where the
    artifact is missing, too.
    """
    kept = guest.target.run(["cat", place.baseline(guest.boot)], check=False)
    # A damaged baseline is taken again, like a missing one.
    found = _parse_if_valid(kept.stdout) if kept.returncode == 0 else None
    if found:
        return found
    if artifact is None:
        raise VirtrootError(
            f"{guest.name} has no baseline, and its artifact {manifest.id} is not in the output",
            "put the artifact back; a guest that an early version installed has no baseline of its own",
        )
    paths = place.of_root(guest.root)
    tree = f"{paths.partial_root}-pristine"
    try:
        with step("unpacking the build of the guest"), artifact.tarball.open("rb") as content:
            guest.target.run(["mkdir", "--mode=0700", tree])
            guest.target.run(archive.unpack_argv(tree), stdin=content)
        programs.save_inventory(guest.target, tree, manifest.source_date_epoch, place.baseline(guest.boot))
    finally:
        mounts.delete(guest.target, tree)
    return parse(guest.target.run(["cat", place.baseline(guest.boot)]).stdout)


def write_install_inventory(target: Target, root: str, manifest: Manifest, boot: str) -> None:
    """Write the inventory of ``root``, which a guest is about to get, to the boot directory ``boot``."""
    programs.save_inventory(target, root, manifest.source_date_epoch, place.install_inventory(boot), links=False)


def find_install_inventory(guest: Guest) -> Inventory | None:
    """Return the inventory of the guest's root at the time it got it; None where there is no readable one."""
    at_install, built = (
        _parse_if_valid(guest.target.run(["cat", path], check=False).stdout)
        for path in (place.install_inventory(guest.boot), place.baseline(guest.boot))
    )
    return at_install if at_install is None or built is None else _fill_links(at_install, built)


def _fill_links(at_install: Inventory, built: Inventory) -> Inventory:
    """Return the inventory at install with the targets of links that it did not read.

    They are taken from the baseline ``built``, where length and time of the link are the same.
    """
    owned, built_owned = at_install.owned or {}, built.owned or {}
    return replace(
        at_install,
        unowned={path: _fill_link(each, built.unowned.get(path)) for path, each in at_install.unowned.items()},
        owned=at_install.owned and {path: _fill_link(each, built_owned.get(path)) for path, each in owned.items()},
    )


def _fill_link(entry: Entry, built: Entry | None) -> Entry:
    if entry.kind != "link" or entry.content or built is None or built.kind != "link":
        return entry
    is_same = (entry.size, entry.modified) == (built.size, built.modified)
    return replace(entry, content=built.content, to=built.to) if is_same else entry


def _parse_if_valid(packed: bytes) -> Inventory | None:
    with suppress(tarfile.TarError, EOFError, KeyError, TypeError, ValueError):
        return parse(packed)
    return None


def take_inventory(target: Target, root: str, manifest: Manifest, base: Inventory) -> Inventory:
    """Return the inventory of a root as it is now; ``base`` is an earlier one of it."""
    # A directory that was recorded as one tree has to be recorded so again, or it would look changed.
    known = [path for path, entry in base.unowned.items() if entry.kind != "tree"]
    found = parse(programs.take_inventory(target, root, manifest.source_date_epoch, known))
    return found if base.has_attributes else drop_attributes(found)


def drop_attributes(inventory: Inventory) -> Inventory:
    """Return the inventory without what earlier versions did not record, to compare it with one of theirs."""

    def plain(entry: Entry) -> Entry:
        return replace(entry, attributes="", content="" if entry.kind == "other" else entry.content)

    return replace(
        inventory,
        etc={path: plain(entry) for path, entry in inventory.etc.items()},
        unowned={path: plain(entry) for path, entry in inventory.unowned.items()},
        owned=inventory.owned and {path: plain(entry) for path, entry in inventory.owned.items()},
        has_attributes=False,
    )


def parse(packed: bytes) -> Inventory:
    """Return the inventory in the compressed tar of the program that took it."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        contents = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
    data = json.loads(contents.pop(_INVENTORY))
    owned = data.get("owned")
    return Inventory(
        packages=tuple(Package(name=name, version=version) for name, version in data["packages"]),
        etc={path: Configured(**entry) for path, entry in data["etc"].items()},
        unowned={path: Unowned(**entry) for path, entry in data["unowned"].items()},
        edited=tuple(data["edited"]),
        contents=contents,
        owned=None if owned is None else {path: Configured(**entry) for path, entry in owned.items()},
        missing=data.get("missing"),
        decisions=data.get("decisions"),
        has_attributes=data.get("attributes", False),
    )
