#!/usr/bin/env python3
"""Says what is in a root beside the files of its packages as they came. Runs beside libvirt.

It needs nothing but Python's library. A guest owns its root and may change it meanwhile: no link is followed, nothing
is opened that is no regular file, and whatever is read has a bound. The package managers' databases are read as the
text that they are, for the same reason.

Called with the root, a time and, on standard input, the paths that are known (see `survey`); or with ``artifact`` or
``arrived`` for those, where the root is as it was made, or as a guest got it.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypedDict

from pipelines.target.payload.tree import descend

#: No file of a package manager's database has more bytes.
_LARGEST_DATABASE = 64 << 20

#: Nor has one of what a person told the package manager.
_LARGEST_DECISIONS = 8 << 20

#: Nor do all of them, or have they more paths.
_LARGEST_DATABASES, _MOST_PATHS = 256 << 20, 2_000_000

#: Nobody has more beside packages in directories that are theirs.
_MOST_OTHERS = 500_000

#: Nobody's configuration has more entries or more bytes.
_MOST_ENTRIES, _MOST_BYTES = 20_000, 256 << 20

#: Nobody changed more bytes of packages' files; each is read whole.
_MOST_COMPARED = 16 << 30

#: Nor do trees go down further.
_DEEPEST = 200

#: Of a file of more bytes in /etc the digest is told and not the content.
_LARGEST_CONTENT = 1 << 20

#: A directory that no package knows, with more entries, is told as one.
_MOST_LISTED = 2000

#: What the package managers and the running system keep for themselves, below which nothing is anybody's.
_STATE = (
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

#: Times of access, where they are noted, would make what is shared between roots each root's own.
_LOOK = os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC

_FIELD = re.compile(
    r"^(Package|Version|Status|Architecture|Multi-Arch|Auto-Installed|Name|Value|Owners|Flags): (.*)$", re.MULTILINE
)
_CONFFILE = re.compile(r"^ /(.+?) ([0-9a-f]{32})(?: |$)", re.MULTILINE)
_MTREE = re.compile(rb"^\./(\S+) .*?\b(md5|sha256)digest=([0-9a-f]+)", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")


#: Attributes that a guest's user decides about. Others are the file system's or the host's, like a label of SELinux.
_ACLS_AGAIN = "trusted.SGI_ACL_"  # XFS shows root each ACL a second time
_ATTRIBUTES = ("user.", "trusted.", "security.capability", "system.posix_acl_access", "system.posix_acl_default")


class Refused(Exception):
    """There is more of something than anybody has."""


@dataclass
class Database:
    """What a package manager says: names and versions, whose each path is, and digests of files as they came.

    Paths have no slash before them, and are those that the root has, whichever name a package has for them. ``owners``
    has what the database calls a package in names of files, with its architecture or version; ``names`` what it is
    called, and ``installed`` when it was, in seconds of the epoch. ``configuration`` has the MD5 of files that a
    package wants nobody to lose changes of. ``decisions`` is what its user told the package manager, see `survey`.
    """

    packages: list[tuple[str, str]] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    configuration: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    installed: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, dict[str, str]] = field(default_factory=dict)

    def name(self, path: str) -> str:
        """Return the name of the package that has ``path``; empty where none has."""
        owner = self.owners.get(path, "")
        return self.names.get(owner, owner)


@dataclass(frozen=True)
class Found:
    """An entry of the root: its path, what it is, and the directory it is in, open."""

    path: str
    name: str
    status: os.stat_result
    directory: int

    @property
    def kind(self) -> str:
        """Return what it is: ``directory``, ``link``, ``file`` or ``other``."""
        mode = self.status.st_mode
        kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"), (stat.S_ISREG, "file"))
        return next((name for is_one, name in kinds if is_one(mode)), "other")


class Root:
    """A root's files, reached from its own descriptor and through no link."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._aliases = {
            found.name: os.readlink(found.name, dir_fd=self._root).strip("/")
            for found in self.entries("")
            if found.kind == "link"
        }

    def real(self, path: str) -> str:
        """Return ``path`` as the root has it: /bin is a link to /usr/bin where the two are one."""
        first, slash, rest = path.strip("/").partition("/")
        return f"{self._aliases[first]}/{rest}" if slash and first in self._aliases else path.strip("/")

    def entries(self, path: str) -> Iterator[Found]:
        """Yield what is in the directory ``path``, sorted; nothing where there is no such directory (any more)."""
        try:
            directory = self._directory(path)
        except OSError:
            return
        try:
            for name in sorted(os.listdir(directory)):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    yield Found(f"{path}/{name}" if path else name, name, status, directory)
        finally:
            os.close(directory)

    def everything(self, path: str) -> Iterator[Found]:
        """Yield what is below the directory ``path``; nothing where there is no such directory (any more)."""
        try:
            top = self._directory(path)
        except OSError:
            return
        depth = path.count("/") + 1
        try:
            for directory, name, status in descend(top):
                if depth + len(directory.parts) > _DEEPEST:
                    raise _too_deep(path)
                yield Found("/".join([path, *directory.parts, name]), name, status, directory.handle)
        finally:
            os.close(top)

    def _directory(self, path: str) -> int:
        parts = path.split("/") if path else []
        if len(parts) > _DEEPEST:
            raise _too_deep(path)
        if {"", ".", ".."} & {*parts}:
            # A package's name in a database of the guest's becomes a part of a path.
            raise FileNotFoundError(path)
        handle = os.dup(self._root)
        for part in parts:
            try:
                following = os.open(part, _LOOK | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            finally:
                os.close(handle)
            handle = following
        return handle

    def read(self, path: str, largest: int = _LARGEST_DATABASE) -> bytes:
        """Return the content of a regular file; empty where there is none."""
        parent, _, name = path.rpartition("/")
        try:
            directory = self._directory(parent)
        except OSError:
            return b""
        try:
            return content(directory, name, largest)
        except OSError:
            return b""
        finally:
            os.close(directory)


def _too_deep(path: str) -> Refused:
    return Refused(f"{path[:60]}...: goes down further than {_DEEPEST} directories")


def content(directory: int, name: str, largest: int) -> bytes:
    """Return the content of a regular file, which is looked at before it is opened; a device would act."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FileNotFoundError(name)
        with open(os.open(f"/proc/self/fd/{handle}", _LOOK), "rb") as file:
            found = file.read(largest + 1)
    finally:
        os.close(handle)
    if len(found) > largest:
        raise Refused(f"{name}: has more than the {largest} bytes that are read")
    return found


def database(root: Root) -> Database:
    """Read what the root's package manager says of it."""
    found = Database()
    if status := root.read("var/lib/dpkg/status"):
        _dpkg(root, found, os.fsdecode(status))
    else:
        _pacman(root, found)
    return found


def _dpkg(root: Root, found: Database, status: str) -> None:
    paragraphs = [(paragraph, dict(_FIELD.findall(paragraph))) for paragraph in status.split("\n\n")]
    native = next((fields.get("Architecture", "") for _, fields in paragraphs if fields.get("Package") == "dpkg"), "")
    selections: dict[str, str] = {}
    for paragraph, fields in paragraphs:
        wanted, _, is_now = fields.get("Status", "").partition(" ")
        if is_now.endswith(" installed"):
            found.packages.append((_qualified(fields, native), fields.get("Version", "")))
            found.configuration.update((root.real(path), digest) for path, digest in _CONFFILE.findall(paragraph))
        if wanted == "hold" or (is_now.endswith(" installed") and wanted not in ("install", "")):
            selections[_qualified(fields, native)] = wanted
    left = _LARGEST_DATABASES
    for entry in root.entries("var/lib/dpkg/info"):
        if entry.name.endswith(".list"):
            owner = entry.name[: -len(".list")]
            name, _, architecture = owner.partition(":")
            found.names[owner] = owner if architecture and native and architecture != native else name
            found.installed[owner] = entry.status.st_mtime
            text = root.read(entry.path, min(left, _LARGEST_DATABASE))
            left -= len(text)
            _own(found, (root.real(line) for line in _lines(text)), owner)
    # Triples: a package's file, the name that it has for the sake of another package's, and that package; a colon
    # where a person said so.
    diverted = _lines(root.read("var/lib/dpkg/diversions", _LARGEST_DECISIONS))
    for away, owner in zip(diverted[1::3], diverted[2::3], strict=False):
        found.owners[root.real(away)] = owner
    overridden = _lines(root.read("var/lib/dpkg/statoverride", _LARGEST_DECISIONS))
    found.decisions = {
        "selections": selections,
        "automatic": {
            _qualified(fields, native): ""
            for fields in _paragraphs(root.read("var/lib/apt/extended_states", _LARGEST_DECISIONS))
            if fields.get("Auto-Installed") == "1"
        },
        "diversions": {
            path: away
            for path, away, owner in zip(diverted[::3], diverted[1::3], diverted[2::3], strict=False)
            if owner == ":"
        },
        "overrides": {path: rights for rights, slash, path in (line.partition(" /") for line in overridden) if slash},
        "architectures": {
            each: "" for each in _lines(root.read("var/lib/dpkg/arch", _LARGEST_DECISIONS)) if each != native
        },
        "answers": {
            f"{owner} {fields.get('Name', '')}": hashlib.sha256(os.fsencode(fields.get("Value", ""))).hexdigest()
            for fields in _paragraphs(root.read("var/cache/debconf/config.dat", _LARGEST_DECISIONS))
            if "seen" in fields.get("Flags", "")
            for owner in fields.get("Owners", "").split(", ")
        },
    }


def _paragraphs(text: bytes) -> Iterator[dict[str, str]]:
    return (dict(_FIELD.findall(paragraph)) for paragraph in os.fsdecode(text).split("\n\n"))


def _qualified(fields: Mapping[str, str], native: str) -> str:
    """Return what a package is called: with its architecture where it may be installed for several."""
    name, architecture = fields.get("Package", ""), fields.get("Architecture", "")
    is_foreign = native and architecture not in (native, "all", "") and fields.get("Multi-Arch", "same") == "same"
    return f"{name}:{architecture}" if is_foreign else name


def _lines(text: bytes) -> list[str]:
    """Return the lines of a database: names of files are bytes, and may have anything in them but a newline."""
    return [line for line in os.fsdecode(text).split("\n") if line]


def _own(found: Database, paths: Iterable[str], owner: str) -> None:
    """Note whose ``paths`` are; raises `Refused` where there are more than any system has."""
    for path in paths:
        found.owners[path] = owner
        if len(found.owners) > _MOST_PATHS:
            raise Refused(f"the packages have more than {_MOST_PATHS} files")


def _pacman(root: Root, found: Database) -> None:
    left = _LARGEST_DATABASES
    found.decisions = {"dependencies": {}}
    for entry in root.entries("var/lib/pacman/local"):
        if entry.kind != "directory":
            continue
        described = _sections(root.read(f"{entry.path}/desc"))
        name = "".join(described.get("NAME", [])[:1])
        found.packages.append((name, "".join(described.get("VERSION", [])[:1])))
        found.names[entry.name] = name
        if described.get("REASON") == ["1"]:
            found.decisions["dependencies"][name] = ""
        with contextlib.suppress(ValueError):
            found.installed[entry.name] = int("".join(described.get("INSTALLDATE", [])[:1]))
        text = root.read(f"{entry.path}/files", min(left, _LARGEST_DATABASE))
        left -= len(text)
        files = _sections(text)
        _own(found, (root.real(path) for path in files.get("FILES", [])), entry.name)
        for line in files.get("BACKUP", []):
            path, _, digest = line.partition("\t")
            found.configuration[root.real(path)] = digest


def _sections(text: bytes) -> dict[str, list[str]]:
    """Return the sections of a file of pacman's database: a name between percent signs, then lines, then none."""
    found: dict[str, list[str]] = {}
    for section in os.fsdecode(text).split("\n\n"):
        title, *lines = section.strip("\n").split("\n")
        found[title.strip("%")] = lines
    return found


def survey(
    path: str, since: int, known: Sequence[str] | None = None, *, links: bool = False
) -> tuple[dict[str, object], dict[str, bytes]]:
    """Return what is in the root ``path`` beside its packages' files, as plain data, and contents of /etc by path.

    ``edited`` are files of packages that were changed after ``since`` (seconds of the epoch), ``owned`` what packages
    have outside /etc that is neither a file of mode 0644 nor a directory of mode 0755 and root's own, and ``missing``
    what they have that is not there. Of directories that no package knows, those in ``known`` are told entry by entry
    and others as one, with how many entries there are in it and how many bytes they take; without ``known`` all small
    ones are told entry by entry. What is ``known`` and a package's by now is ``owned`` in kind. Where ``links`` lead is
    told of all, and else of those that were changed after ``since``: reading one notes a time in it, and a snapshot
    would share no blocks with what it was made of any more.

    ``decisions`` are what a person told the package manager, and what packages' scripts told it: dpkg's ``selections``
    other than install, packages that are ``automatic`` or ``dependencies``, local ``diversions``, ``overrides`` of
    owners and modes, foreign ``architectures``, and digests of the ``answers`` that debconf has, by package and name.
    """
    root = Root(path)
    packages = database(root)
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
    return any(path == each or path.startswith(f"{each}/") for each in _STATE)


def _configuration(root: Root, packages: Database) -> tuple[dict[str, dict[str, object]], dict[str, bytes]]:
    found: dict[str, dict[str, object]] = {}
    contents: dict[str, bytes] = {}
    digests = Digests(root, packages)
    left, pending = _MOST_BYTES, ["etc"]
    while pending:
        for entry in root.entries(pending.pop()):
            told = _told(entry)
            with contextlib.suppress(FileNotFoundError):
                if entry.kind == "directory":
                    pending.append(entry.path)
                elif entry.kind == "link":
                    told["content"] = os.readlink(entry.name, dir_fd=entry.directory)
                    told["to"] = packages.name(root.real(_aimed(entry.path, str(told["content"]))))
                elif entry.kind == "file":
                    text = content(entry.directory, entry.name, left)
                    left -= len(text)
                    told["content"], told["size"] = hashlib.sha256(text).hexdigest(), len(text)
                    told["as_packaged"] = _as_packaged(packages, digests, entry, text)
                    if len(text) <= _LARGEST_CONTENT:
                        contents[entry.path] = text
                else:
                    told["content"] = _special(entry.status)
                told["package"] = packages.name(entry.path)
                found[entry.path] = told
            if len(found) > _MOST_ENTRIES:
                raise Refused(f"etc: has more than {_MOST_ENTRIES} entries")
    return found, contents


def _aimed(link: str, target: str) -> str:
    """Return the path that a link says, as it is written: nothing on the way is followed."""
    return os.path.normpath(os.path.join("/", os.path.dirname(link), target)).lstrip("/")


def _told(entry: Found) -> dict[str, object]:
    status = entry.status
    attributes = _attributes(entry)
    return {
        "kind": entry.kind,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        **({"attributes": attributes} if attributes else {}),
    }


def _attributes(entry: Found) -> str:
    """Return the digest of an entry's ACL, capabilities and other attributes; empty where it has none."""
    path = f"/proc/self/fd/{entry.directory}/{entry.name}"
    try:
        listed = os.listxattr(path, follow_symlinks=False)
        names = [each for each in listed if each.startswith(_ATTRIBUTES) and not each.startswith(_ACLS_AGAIN)]
        values = [(each, os.getxattr(path, each, follow_symlinks=False).hex()) for each in sorted(names)]
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest() if values else ""


def _special(status: os.stat_result) -> str:
    """Return in words what an entry is that is neither a file nor a directory nor a link."""
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return "FIFO" if stat.S_ISFIFO(status.st_mode) else "socket"
    kind = "character" if stat.S_ISCHR(status.st_mode) else "block"
    return f"{kind} device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _as_packaged(packages: Database, digests: "Digests", entry: Found, text: bytes) -> bool:
    """Say whether a file of /etc is as its package brought it; one without a digest is as it was when that came."""
    owner = packages.owners.get(entry.path)
    if entry.path in packages.configuration:
        return packages.configuration[entry.path] == _md5(text)
    if owner is None:
        return False
    how, digest = digests.of(entry.path, owner)
    return digest == _digest(how, text) if how else entry.status.st_mtime <= packages.installed.get(owner, 0)


@dataclass
class Others:
    """What is outside /etc: what no package knows, what of packages is not as most is, and what all was ``seen``.

    ``candidates`` are packages' files that were changed after some time, with the time of that.
    """

    unowned: dict[str, dict[str, object]] = field(default_factory=dict)
    owned: dict[str, dict[str, object]] = field(default_factory=dict)
    candidates: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


#: What most of packages is: kind, mode and owners.
_PLAIN = (("file", 0o644, 0, 0), ("directory", 0o755, 0, 0))


def _others(root: Root, packages: Database, since: int, known: set[str] | None, read_after: float) -> Others:
    """Return what there is outside /etc; packages' files are candidates that were changed after ``since``.

    Links are read that were changed after ``read_after``.
    """
    others = Others()
    found, pending = others.unowned, [""]
    listed: set[str] = set()

    def is_listed(entry: Found) -> bool:
        # What is in a small tree is smaller: it is not measured again, which would take longer with each directory.
        return entry.path in known if known is not None else entry.path.rpartition("/")[0] in listed

    while pending:
        for entry in root.entries(pending.pop()):
            if entry.path == "etc" or entry.path in _STATE:
                continue
            told = _told(entry)
            if entry.path in packages.owners:
                others.seen.add(entry.path)
                if entry.kind == "directory":
                    pending.append(entry.path)
                elif entry.kind == "file" and entry.status.st_mtime > since:
                    others.candidates[entry.path] = entry.status.st_mtime
                if tuple(told.values()) not in _PLAIN:
                    others.owned[entry.path] = told
                    told["package"] = packages.name(entry.path)
                    told.update(_leading(root, packages, entry, read_after))
                if known is not None and entry.path in known:
                    found[entry.path] = {"kind": "owned", "uid": entry.status.st_uid}
                continue
            if entry.kind == "directory":
                tree = None if is_listed(entry) else _measured(root, entry.path)
                if tree is None or (known is None and tree["entries"] <= _MOST_LISTED):
                    pending.append(entry.path)
                    listed.add(entry.path)
                else:
                    told.update(tree, kind="tree")
            elif entry.kind == "file":
                told.update(_sized(entry))
            elif entry.kind == "other":
                told["content"] = _special(entry.status)
            told.update(_leading(root, packages, entry, read_after))
            found[entry.path] = told
            if len(found) + len(others.owned) > _MOST_OTHERS:
                raise Refused(f"more than {_MOST_OTHERS} entries lie beside those of packages, like {entry.path[:60]}")
    return others


def _sized(entry: Found) -> dict[str, object]:
    return {"size": entry.status.st_size, "modified": int(entry.status.st_mtime)}


def _leading(root: Root, packages: Database, entry: Found, after: float) -> dict[str, object]:
    """Return what there is to tell of a link: of one changed ``after`` some time where it leads, and whose that is."""
    if entry.kind != "link":
        return {}
    told = _sized(entry)
    if entry.status.st_mtime > after:
        with contextlib.suppress(OSError):
            content = os.readlink(entry.name, dir_fd=entry.directory)
            told |= {"content": content, "to": packages.name(root.real(_aimed(entry.path, content)))}
    return told


class Tree(TypedDict):
    """How many entries a tree has, how many are no directories, how many bytes of disk they take, and what they are.

    The ``digest`` is of names, modes and owners, and of sizes and times of files; times in whole seconds.
    """

    entries: int
    files: int
    size: int
    digest: str


def _measured(root: Root, path: str) -> Tree:
    tree = Tree(entries=0, files=0, size=0, digest="")
    digest = hashlib.sha256()
    for entry in root.everything(path):
        tree["entries"] += 1
        tree["size"] += entry.status.st_blocks * 512
        what: list[object] = [entry.path, *_told(entry).values()]
        if entry.kind != "directory":
            tree["files"] += 1
            what += [entry.status.st_size, int(entry.status.st_mtime)]
        digest.update(json.dumps(what).encode())
    tree["digest"] = digest.hexdigest()
    return tree


def _edited(root: Root, packages: Database, candidates: Mapping[str, float]) -> Iterator[str]:
    """Yield those files that are not what their package brought.

    A package says of most what that was; the others are those that were changed after it was installed.
    """
    digests = Digests(root, packages)
    left = _MOST_COMPARED
    # One package after the other: what is known of one is all that is kept.
    for path, changed in sorted(candidates.items(), key=lambda each: packages.owners[each[0]]):
        how, digest = digests.of(path, packages.owners[path])
        if not how:
            if changed > packages.installed.get(packages.owners[path], 0):
                yield path
        else:
            text = root.read(path, _MOST_BYTES)
            left -= len(text)
            if left < 0:
                raise Refused(f"more than {_MOST_COMPARED >> 30} GiB of packages' files were changed, like {path[:60]}")
            if digest != _digest(how, text):
                yield path


def _digest(how: str, text: bytes) -> str:
    return _md5(text) if how == "md5" else hashlib.sha256(text).hexdigest()


class Digests:
    """What package managers say that files were when they came; what is known of a package is kept for the next file.

    Of /etc it is kept for good, since files of one package lie apart there.
    """

    def __init__(self, root: Root, packages: Database) -> None:
        self._root = root
        self._owners = packages.owners
        self._owner = ""
        self._known: dict[str, tuple[str, str]] = {}
        self._etc: dict[str, dict[str, tuple[str, str]]] = {}

    def of(self, path: str, owner: str) -> tuple[str, str]:
        """Return ``md5`` or ``sha256`` and the digest of a file of the package ``owner``; empty where none is known."""
        if path.startswith("etc/"):
            if owner not in self._etc:
                known = self._read(owner)
                self._etc[owner] = {each: what for each, what in known.items() if self._is_of(each, owner)}
            return self._etc[owner].get(path, ("", ""))
        if owner != self._owner:
            self._owner, self._known = owner, self._read(owner)
        return self._known.get(path, ("", ""))

    def _is_of(self, path: str, owner: str) -> bool:
        return path.startswith("etc/") and self._owners.get(path) == owner

    def _read(self, owner: str) -> dict[str, tuple[str, str]]:
        known: dict[str, tuple[str, str]] = {}
        for line in _lines(self._root.read(f"var/lib/dpkg/info/{owner}.md5sums")):
            digest, _, path = line.partition("  ")
            known[self._root.real(path)] = ("md5", digest)
        return {**known, **_mtree(self._root.read(f"var/lib/pacman/local/{owner}/mtree"))}


def _mtree(packed: bytes) -> dict[str, tuple[str, str]]:
    """Return the digests in an mtree(5), compressed, by path."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            text = file.read(_LARGEST_DATABASE)
    except (OSError, EOFError, zlib.error):
        return {}
    return {
        os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), path)): (how.decode(), digest.decode())
        for path, how, digest in _MTREE.findall(text)
    }


def _md5(text: bytes) -> str:
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def pack(found: dict[str, object], contents: dict[str, bytes], sink: BinaryIO) -> None:
    """Write a survey as a tar, compressed: ``survey.json``, then the contents under their paths."""
    files = {"survey.json": json.dumps(found).encode(), **contents}
    with tarfile.open(fileobj=sink, mode="w:gz", compresslevel=1) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))


def main(arguments: Sequence[str]) -> None:
    """Write the survey to standard output; see the module's docstring."""
    path, since, *rest = arguments
    known = None if rest else json.load(sys.stdin)
    found, contents = survey(path, int(since), known, links=rest == ["artifact"])
    pack(found, contents, sys.stdout.buffer)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"virtroot: {error}")
