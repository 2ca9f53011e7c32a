"""Makes the inventory of a root: what is in it in addition to the files of its packages as they were installed.

The root belongs to a guest, which can change it meanwhile. No link is followed, only regular files are opened, and
every size has a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypedDict

from .attributes import proc_path, read_attributes
from .errors import Missing, NotRegular, Refused
from .exchange import flush
from .packages import Database, Digests, md5, read_database
from .root_reader import Entry, RootReader, read_entry

#: Directories outside /etc have at most this many entries that no package owns.
_MOST_OTHERS = 500_000

#: /etc has at most this many entries, and this many bytes.
_MOST_ENTRIES, _MOST_BYTES = 20_000, 256 << 20

#: Changed files of packages have at most this many bytes together. Each of them is read whole.
_MOST_COMPARED = 16 << 30

#: For a larger file of /etc the inventory has the digest, and not the content. In bytes.
_LARGEST_CONTENT = 1 << 20

#: A directory that no package knows and that has more entries is one entry of the inventory.
_MOST_LISTED = 2000

#: State of the package managers and of the running system. Nothing below these directories is listed.
STATE = (
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/pacman",
    "var/tmp",
)


def take(
    path: str, since: int, known: Sequence[str] | None = None, *, links: bool = False
) -> tuple[dict[str, object], dict[str, bytes]]:
    """Return the inventory of the root ``path`` as plain data, and contents of files in /etc by path.

    The keys of the inventory:

    - ``edited``: files of packages that were changed after ``since`` (seconds of the epoch)
    - ``owned``: entries of packages outside /etc other than files of mode 0644 and directories of mode 0755 that root
      owns
    - ``missing``: entries of packages that do not exist
    - ``unowned``: entries outside /etc that no package owns. A directory in ``known`` is listed entry by entry, another
      one is one entry with the number of its entries and their bytes. Without ``known`` all small directories are
      listed entry by entry. An entry that is ``known`` and that a package owns by now has the kind ``owned``
    - ``decisions``: what the user and the scripts of packages set in the package manager: dpkg's ``selections`` other
      than install, packages that are ``automatic`` or ``dependencies``, local ``diversions``, ``overrides`` of owners
      and modes, foreign ``architectures``, and digests of debconf's ``answers``, by package and name

    With ``links`` all links outside /etc are read, otherwise those that were changed after ``since``. To read a link
    updates a time in it, and a snapshot would no longer share that block with its origin.
    """
    root = RootReader(path)
    packages = read_database(root)
    etc, contents = _configuration(root, packages)
    read_after = float("-inf") if links else since
    others = _others(root, packages, since, None if known is None else set(known), read_after)
    there = others.seen.union(etc, ("", ".", "etc"))
    missing = [path for path in packages.owners if path not in there and not _is_state(path)]
    if len(missing) > _MOST_OTHERS:
        raise Refused(f"more than {_MOST_OTHERS} files of packages are missing, like {missing[0][:60]}")
    return {
        "packages": packages.packages,
        "etc": etc,
        "unowned": others.unowned,
        "edited": sorted(_edited(root, packages, others.candidates)),
        "owned": others.owned,
        "missing": {path: packages.name(path) for path in missing},
        "attributes": True,
        "decisions": packages.decisions,
    }, contents


def _is_state(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in STATE)


def _configuration(root: RootReader, packages: Database) -> tuple[dict[str, dict[str, object]], dict[str, bytes]]:
    found: dict[str, dict[str, object]] = {}
    contents: dict[str, bytes] = {}
    digests = Digests(root, packages)
    left, pending = _MOST_BYTES, ["etc"]
    while pending:
        for entry in root.entries(pending.pop()):
            described = _describe(entry)
            with contextlib.suppress(FileNotFoundError, Missing, NotRegular):
                if entry.kind == "directory":
                    pending.append(entry.path)
                elif entry.kind == "link":
                    described["content"] = os.readlink(entry.name, dir_fd=entry.directory)
                    described["to"] = packages.name(root.real_path(_target_path(entry.path, str(described["content"]))))
                elif entry.kind == "file":
                    text = read_entry(entry.directory, entry.name, left)
                    left -= len(text)
                    described["content"], described["size"] = hashlib.sha256(text).hexdigest(), len(text)
                    described["as_packaged"] = _as_packaged(packages, digests, entry, text)
                    if len(text) <= _LARGEST_CONTENT:
                        contents[entry.path] = text
                else:
                    described["content"] = _special(entry.status)
                described["package"] = packages.name(entry.path)
                found[entry.path] = described
            if len(found) > _MOST_ENTRIES:
                raise Refused(f"etc: has more than {_MOST_ENTRIES} entries")
    return found, contents


def _target_path(link: str, target: str) -> str:
    """Return the path that a link contains, as it is written. No link on the way is followed."""
    return os.path.normpath(os.path.join("/", os.path.dirname(link), target)).lstrip("/")


def _describe(entry: Entry) -> dict[str, object]:
    status = entry.status
    attributes = _attributes(entry)
    return {
        "kind": entry.kind,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        **({"attributes": attributes} if attributes else {}),
    }


def _attributes(entry: Entry) -> str:
    """Return the digest of an entry's ACLs, capabilities and other attributes; empty if it has none."""
    found = read_attributes(proc_path(entry.directory, entry.name))
    values = [(each, found[each].hex()) for each in sorted(found)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest() if values else ""


def _special(status: os.stat_result) -> str:
    """Describe an entry that is not a file, a directory or a link."""
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return "FIFO" if stat.S_ISFIFO(status.st_mode) else "socket"
    kind = "character" if stat.S_ISCHR(status.st_mode) else "block"
    return f"{kind} device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _as_packaged(packages: Database, digests: Digests, entry: Entry, text: bytes) -> bool:
    """Say whether a file of /etc is as its package installed it. Without a digest, its time of change decides."""
    owner = packages.owners.get(entry.path)
    if entry.path in packages.configuration:
        return packages.configuration[entry.path] == md5(text)
    if owner is None:
        return False
    algorithm, digest = digests.find(entry.path, owner)
    return (
        digest == _digest(algorithm, text) if algorithm else entry.status.st_mtime <= packages.installed.get(owner, 0)
    )


@dataclass
class Others:
    """Entries outside /etc; see `take` for ``unowned`` and ``owned``.

    ``candidates`` are files of packages that were changed after some time, with that time. ``seen`` are the paths of
    all entries that packages own.
    """

    unowned: dict[str, dict[str, object]] = field(default_factory=dict)
    owned: dict[str, dict[str, object]] = field(default_factory=dict)
    candidates: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


#: Kind, mode and owners of most entries of packages.
_PLAIN = (("file", 0o644, 0, 0), ("directory", 0o755, 0, 0))


def _others(root: RootReader, packages: Database, since: int, known: set[str] | None, read_after: float) -> Others:
    """Return the entries outside /etc. Files of packages that were changed after ``since`` are candidates.

    Links that were changed after ``read_after`` are read.
    """
    others = Others()
    found, pending = others.unowned, [""]
    listed: set[str] = set()

    def is_listed(entry: Entry) -> bool:
        # A directory inside a small tree is small too. To measure each one again would take quadratic time.
        return entry.path in known if known is not None else entry.path.rpartition("/")[0] in listed

    while pending:
        for entry in root.entries(pending.pop()):
            if entry.path == "etc" or entry.path in STATE:
                continue
            described = _describe(entry)
            if entry.path in packages.owners:
                others.seen.add(entry.path)
                if entry.kind == "directory":
                    pending.append(entry.path)
                elif entry.kind == "file" and entry.status.st_mtime > since:
                    others.candidates[entry.path] = entry.status.st_mtime
                if tuple(described.values()) not in _PLAIN:
                    others.owned[entry.path] = described
                    described["package"] = packages.name(entry.path)
                    described.update(_describe_link(root, packages, entry, read_after))
                if known is not None and entry.path in known:
                    found[entry.path] = {"kind": "owned", "uid": entry.status.st_uid}
                continue
            if entry.kind == "directory":
                tree = None if is_listed(entry) else _measure(root, entry.path)
                if tree is None or (known is None and tree["entries"] <= _MOST_LISTED):
                    pending.append(entry.path)
                    listed.add(entry.path)
                else:
                    described.update(tree, kind="tree")
            elif entry.kind == "file":
                described.update(_describe_size(entry))
            elif entry.kind == "other":
                described["content"] = _special(entry.status)
            described.update(_describe_link(root, packages, entry, read_after))
            found[entry.path] = described
            if len(found) + len(others.owned) > _MOST_OTHERS:
                raise Refused(f"more than {_MOST_OTHERS} entries belong to no package, like {entry.path[:60]}")
    return others


def _describe_size(entry: Entry) -> dict[str, object]:
    return {"size": entry.status.st_size, "modified": int(entry.status.st_mtime)}


def _describe_link(root: RootReader, packages: Database, entry: Entry, after: float) -> dict[str, object]:
    """Describe an entry if it is a link; if it was changed ``after`` a time, with its target and that one's package."""
    if entry.kind != "link":
        return {}
    described = _describe_size(entry)
    if entry.status.st_mtime > after:
        with contextlib.suppress(OSError):
            content = os.readlink(entry.name, dir_fd=entry.directory)
            described |= {"content": content, "to": packages.name(root.real_path(_target_path(entry.path, content)))}
    return described


class Tree(TypedDict):
    """Numbers of entries and of entries that are not directories, bytes of disk, and a digest of a tree.

    The digest covers names, modes, owners, and the sizes and times of files; times in whole seconds.
    """

    entries: int
    files: int
    size: int
    digest: str


def _measure(root: RootReader, path: str) -> Tree:
    tree = Tree(entries=0, files=0, size=0, digest="")
    digest = hashlib.sha256()
    for entry in root.walk(path):
        tree["entries"] += 1
        tree["size"] += entry.status.st_blocks * 512
        values: list[object] = [entry.path, *_describe(entry).values()]
        if entry.kind != "directory":
            tree["files"] += 1
            values += [entry.status.st_size, int(entry.status.st_mtime)]
        digest.update(json.dumps(values).encode())
    tree["digest"] = digest.hexdigest()
    return tree


def _edited(root: RootReader, packages: Database, candidates: Mapping[str, float]) -> Iterator[str]:
    """Yield the files that differ from what their package installed.

    Most packages have digests of their files. A file without one differs if it was changed after the installation.
    """
    digests = Digests(root, packages)
    left = _MOST_COMPARED
    # Sorted by package, because only the digests of one package are cached.
    for path, changed in sorted(candidates.items(), key=lambda each: packages.owners[each[0]]):
        algorithm, digest = digests.find(path, packages.owners[path])
        if not algorithm:
            if changed > packages.installed.get(packages.owners[path], 0):
                yield path
        else:
            text = root.read(path, _MOST_BYTES)
            left -= len(text)
            if left < 0:
                raise Refused(
                    f"more than {_MOST_COMPARED >> 30} GiB of files of packages were changed, like {path[:60]}"
                )
            if digest != _digest(algorithm, text):
                yield path


def _digest(algorithm: str, text: bytes) -> str:
    return md5(text) if algorithm == "md5" else hashlib.sha256(text).hexdigest()


def pack(found: dict[str, object], contents: dict[str, bytes], sink: BinaryIO) -> None:
    """Write an inventory as a compressed tar: ``survey.json``, then the contents under their paths."""
    files = {"survey.json": json.dumps(found).encode(), **contents}
    with tarfile.open(fileobj=sink, mode="w:gz", compresslevel=1) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))


def write(root: str, since: int, known: Sequence[str] | None = None, *, links: bool = False) -> None:
    """Write the inventory of ``root`` to standard output; see `take` and `pack`."""
    pack(*take(root, since, known, links=links), sys.stdout.buffer)


def save(root: str, since: int, path: str, *, links: bool = False) -> None:
    """Write the inventory of ``root`` to the file ``path`` of the host, for root alone, in one step."""
    found = take(root, since, links=links)
    partial = f"{path}.partial"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        pack(*found, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)
    flush(os.path.dirname(path))
