"""What a root was when it was made of its artifact, kept beside the guest's kernel; and what it is now.

Builds are pruned long before the guests that were made of them, so the guest has all that is to be known of its own.
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

_SURVEY = "survey.json"


@dataclass(frozen=True)
class Configured:
    """An entry of /etc: ``kind`` is directory, file, link or other, ``content`` a file's sha256 or where a link leads.

    Of what is neither, ``content`` says in words what it is. ``attributes`` is the digest of an ACL, capabilities and
    the like, empty for none.

    ``as_packaged`` says that the file is what the installed version of its package brought. ``package`` has it, and
    ``to`` the file that a link leads to; both are empty where none does. Outside /etc ``modified`` is said of a link,
    and ``content`` may be empty as in `Unowned`.
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
    """An entry that no package has; a ``tree`` is a directory with ``entries`` below it, ``files`` without such.

    Sizes are in bytes; ``content`` is where a link leads, empty where that was not looked at, and ``to`` the package
    that has that; ``digest`` is what is in a tree. Older records have no ``mode``, ``gid`` and digests. What was such
    an entry once, and is a package's now, is ``owned``.
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
class Survey:
    """What a root has beside its packages' files as they came; paths have no slash before them. See `survey`.

    ``owned`` are entries of packages that are not as most are, and ``missing`` those that are not there, with their
    package; older records have neither. ``decisions`` are what the package manager was told, by kind, see `survey`.
    Older records have none, and no attributes and special files: they do not have ``has_attributes``.
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


def keep(target: Target, root: str, manifest: Manifest, boot: str, golden: BaseTree | None) -> None:
    """Keep what ``root`` is, in which nothing was changed since it was made, in the boot directory ``boot``.

    What the tree ``golden`` is, of which it was made, is found out once.
    """
    target.run(["mkdir", "--parents", "--mode=0711", boot])
    if golden is None:
        programs.save_inventory(target, root, manifest.source_date_epoch, place.pristine(boot))
        return
    kept = _readable(target.run(["cat", place.pristine(golden.path)], check=False).stdout)
    # An earlier version told less.
    if kept is None or kept.owned is None or not kept.has_attributes:
        programs.save_inventory(target, golden.tree, manifest.source_date_epoch, place.pristine(golden.path))
    copy(target, golden.path, boot)


def copy(target: Target, boot: str, other: str) -> None:
    """Let the boot directory ``other`` have the record of ``boot`` too, where there is one."""
    script = 'if [ -f "$1" ]; then cp --reflink=auto -- "$1" "$2"; fi'
    target.run(["sh", "-ec", f"umask 077; {script}", "copy", place.pristine(boot), place.pristine(other)])


def of(guest: Guest, manifest: Manifest, artifact: Artifact | None) -> Survey:
    """Return what the guest's root was when it was made.

    ``artifact`` is unpacked for it where the guest keeps no such record; raises `VirtrootError` where neither is there.
    """
    kept = guest.target.run(["cat", place.pristine(guest.boot)], check=False)
    # A damaged one is made anew like one that is missing.
    found = _readable(kept.stdout) if kept.returncode == 0 else None
    if found:
        return found
    if artifact is None:
        raise VirtrootError(
            f"what {guest.name} was made of, {manifest.id}, is kept neither with it nor in the output",
            "only guests that were installed by this version or a later one keep it; or put the artifact back",
        )
    paths = place.of_root(guest.root)
    tree = f"{paths.partial_root}-pristine"
    try:
        with step("unpacking what the guest was made of"), artifact.tarball.open("rb") as content:
            guest.target.run(["mkdir", "--mode=0700", tree])
            guest.target.run(archive.unpack_argv(tree), stdin=content)
        programs.save_inventory(guest.target, tree, manifest.source_date_epoch, place.pristine(guest.boot))
    finally:
        mounts.delete(guest.target, tree)
    return parse(guest.target.run(["cat", place.pristine(guest.boot)]).stdout)


def keep_arrived(target: Target, root: str, manifest: Manifest, boot: str) -> None:
    """Keep what ``root`` is, which a guest is about to get, in the boot directory ``boot``."""
    programs.save_inventory(target, root, manifest.source_date_epoch, place.arrived(boot), links=False)


def arrived(guest: Guest) -> Survey | None:
    """Return what the guest's root was when the guest got it; None where no readable record says so."""
    kept, made = (
        _readable(guest.target.run(["cat", path], check=False).stdout)
        for path in (place.arrived(guest.boot), place.pristine(guest.boot))
    )
    return kept if kept is None or made is None else _with_links_of(kept, made)


def _with_links_of(arrived: Survey, made: Survey) -> Survey:
    """Say of a root that ``arrived`` where those links lead that are as they were ``made``, and were not looked at."""
    owned, made_owned = arrived.owned or {}, made.owned or {}
    return replace(
        arrived,
        unowned={path: _looked_at(each, made.unowned.get(path)) for path, each in arrived.unowned.items()},
        owned=arrived.owned and {path: _looked_at(each, made_owned.get(path)) for path, each in owned.items()},
    )


def _looked_at(entry: Entry, made: Entry | None) -> Entry:
    if entry.kind != "link" or entry.content or made is None or made.kind != "link":
        return entry
    alike = (entry.size, entry.modified) == (made.size, made.modified)
    return replace(entry, content=made.content, to=made.to) if alike else entry


def _readable(packed: bytes) -> Survey | None:
    with suppress(tarfile.TarError, EOFError, KeyError, TypeError, ValueError):
        return parse(packed)
    return None


def now(target: Target, root: str, manifest: Manifest, base: Survey) -> Survey:
    """Return what a root is that was ``base`` once."""
    # What was told as one is told so again.
    known = [path for path, entry in base.unowned.items() if entry.kind != "tree"]
    found = parse(programs.take_inventory(target, root, manifest.source_date_epoch, known))
    return found if base.has_attributes else without_attributes(found)


def without_attributes(survey: Survey) -> Survey:
    """Return what a survey by an earlier version would have been, for a comparison with one."""

    def plain(entry: Entry) -> Entry:
        return replace(entry, attributes="", content="" if entry.kind == "other" else entry.content)

    return replace(
        survey,
        etc={path: plain(entry) for path, entry in survey.etc.items()},
        unowned={path: plain(entry) for path, entry in survey.unowned.items()},
        owned=survey.owned and {path: plain(entry) for path, entry in survey.owned.items()},
        has_attributes=False,
    )


def parse(packed: bytes) -> Survey:
    """Return the survey in what `survey` wrote."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        contents = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
    told = json.loads(contents.pop(_SURVEY))
    owned = told.get("owned")
    return Survey(
        packages=tuple(Package(name=name, version=version) for name, version in told["packages"]),
        etc={path: Configured(**entry) for path, entry in told["etc"].items()},
        unowned={path: Unowned(**entry) for path, entry in told["unowned"].items()},
        edited=tuple(told["edited"]),
        contents=contents,
        owned=None if owned is None else {path: Configured(**entry) for path, entry in owned.items()},
        missing=told.get("missing"),
        decisions=told.get("decisions"),
        has_attributes=told.get("attributes", False),
    )
