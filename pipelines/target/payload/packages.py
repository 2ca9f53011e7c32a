"""Reads the databases of dpkg and pacman in a root: packages, their files, and what their user decided.

The databases are read as text. To run the package manager of a root would run what a guest wrote.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .errors import Refused
from .root_reader import LARGEST_DATABASE, RootReader

#: A file with decisions of the user has at most this many bytes.
_LARGEST_DECISIONS = 8 << 20

#: All files of the databases together have at most this many bytes, and this many paths.
_LARGEST_DATABASES, _MOST_PATHS = 256 << 20, 2_000_000

_FIELD = re.compile(
    r"^(Package|Version|Status|Architecture|Multi-Arch|Auto-Installed|Name|Value|Owners|Flags): (.*)$", re.MULTILINE
)
_CONFFILE = re.compile(r"^ /(.+?) ([0-9a-f]{32})(?: |$)", re.MULTILINE)
_MTREE = re.compile(rb"^\./(\S+) .*?\b(md5|sha256)digest=([0-9a-f]+)", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass
class Database:
    """The content of a package manager's database.

    ``packages`` are names and versions. Paths have no leading slash, and are those of the root, not those of a package
    that knows them by another name. ``owners`` maps a path to its package, by the name that the package has in file
    names of the database, with architecture or version. ``names`` maps that name to the package's own, ``installed``
    to the time of its installation in seconds of the epoch. ``configuration`` has the MD5 of configuration files as
    their package brought them. ``decisions`` is what the user decided, see `inventory.take`.
    """

    packages: list[tuple[str, str]] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    configuration: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    installed: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, dict[str, str]] = field(default_factory=dict)

    def name(self, path: str) -> str:
        """Return the name of the package that owns ``path``; empty if none does."""
        owner = self.owners.get(path, "")
        return self.names.get(owner, owner)


def read_database(root: RootReader) -> Database:
    """Read the database of the root's package manager."""
    found = Database()
    if status := root.read("var/lib/dpkg/status"):
        _read_dpkg(root, found, os.fsdecode(status))
    else:
        _read_pacman(root, found)
    return found


def _read_dpkg(root: RootReader, found: Database, status: str) -> None:
    paragraphs = [(paragraph, dict(_FIELD.findall(paragraph))) for paragraph in status.split("\n\n")]
    native = next((fields.get("Architecture", "") for _, fields in paragraphs if fields.get("Package") == "dpkg"), "")
    selections: dict[str, str] = {}
    for paragraph, fields in paragraphs:
        wanted, _, is_now = fields.get("Status", "").partition(" ")
        if is_now.endswith(" installed"):
            found.packages.append((_qualified(fields, native), fields.get("Version", "")))
            found.configuration.update((root.real_path(path), digest) for path, digest in _CONFFILE.findall(paragraph))
        if wanted == "hold" or (is_now.endswith(" installed") and wanted not in ("install", "")):
            selections[_qualified(fields, native)] = wanted
    left = _LARGEST_DATABASES
    for entry in root.entries("var/lib/dpkg/info"):
        if entry.name.endswith(".list"):
            owner = entry.name[: -len(".list")]
            name, _, architecture = owner.partition(":")
            found.names[owner] = owner if architecture and native and architecture != native else name
            found.installed[owner] = entry.status.st_mtime
            text = root.read(entry.path, min(left, LARGEST_DATABASE))
            left -= len(text)
            _add_files(found, (root.real_path(line) for line in _lines(text)), owner)
    # Lines in groups of three: a path, the path that the file of this name is diverted to, and the package that
    # diverts it; a colon if the user does.
    diverted = _lines(root.read("var/lib/dpkg/diversions", _LARGEST_DECISIONS))
    for away, owner in zip(diverted[1::3], diverted[2::3]):
        found.owners[root.real_path(away)] = owner
    overridden = _lines(root.read("var/lib/dpkg/statoverride", _LARGEST_DECISIONS))
    found.decisions = {
        "selections": selections,
        "automatic": {
            _qualified(fields, native): ""
            for fields in _paragraphs(root.read("var/lib/apt/extended_states", _LARGEST_DECISIONS))
            if fields.get("Auto-Installed") == "1"
        },
        "diversions": {
            path: away for path, away, owner in zip(diverted[::3], diverted[1::3], diverted[2::3]) if owner == ":"
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
    """Return the name of a package, with its architecture if it can be installed for several."""
    name, architecture = fields.get("Package", ""), fields.get("Architecture", "")
    is_foreign = native and architecture not in (native, "all", "") and fields.get("Multi-Arch", "same") == "same"
    return f"{name}:{architecture}" if is_foreign else name


def _lines(text: bytes) -> list[str]:
    """Return the lines of a database. A file name can contain any byte but a newline."""
    return [line for line in os.fsdecode(text).split("\n") if line]


def _add_files(found: Database, paths: Iterable[str], owner: str) -> None:
    """Add ``paths`` to the files of a package; raises `Refused` if there are too many."""
    for path in paths:
        found.owners[path] = owner
        if len(found.owners) > _MOST_PATHS:
            raise Refused(f"the packages have more than {_MOST_PATHS} files")


def _read_pacman(root: RootReader, found: Database) -> None:
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
        text = root.read(f"{entry.path}/files", min(left, LARGEST_DATABASE))
        left -= len(text)
        files = _sections(text)
        _add_files(found, (root.real_path(path) for path in files.get("FILES", [])), entry.name)
        for line in files.get("BACKUP", []):
            path, _, digest = line.partition("\t")
            found.configuration[root.real_path(path)] = digest


def _sections(text: bytes) -> dict[str, list[str]]:
    """Return the sections of a file of pacman's database: a name between percent signs, lines, then an empty line."""
    found: dict[str, list[str]] = {}
    for section in os.fsdecode(text).split("\n\n"):
        title, *lines = section.strip("\n").split("\n")
        found[title.strip("%")] = lines
    return found


class Digests:
    """The digests of files as their packages brought them. Those of the last package are cached.

    The digests of files in /etc stay cached, since a walk of /etc meets the files of one package far apart.
    """

    def __init__(self, root: RootReader, packages: Database) -> None:
        self._root = root
        self._owners = packages.owners
        self._owner = ""
        self._known: dict[str, tuple[str, str]] = {}
        self._etc: dict[str, dict[str, tuple[str, str]]] = {}

    def find(self, path: str, owner: str) -> tuple[str, str]:
        """Return ``md5`` or ``sha256`` and the digest of a file of the package ``owner``; empty if it is unknown."""
        if path.startswith("etc/"):
            if owner not in self._etc:
                known = self._read(owner)
                self._etc[owner] = {each: what for each, what in known.items() if self._is_etc_of(each, owner)}
            return self._etc[owner].get(path, ("", ""))
        if owner != self._owner:
            self._owner, self._known = owner, self._read(owner)
        return self._known.get(path, ("", ""))

    def _is_etc_of(self, path: str, owner: str) -> bool:
        return path.startswith("etc/") and self._owners.get(path) == owner

    def _read(self, owner: str) -> dict[str, tuple[str, str]]:
        known: dict[str, tuple[str, str]] = {}
        for line in _lines(self._root.read(f"var/lib/dpkg/info/{owner}.md5sums")):
            digest, _, path = line.partition("  ")
            known[self._root.real_path(path)] = ("md5", digest)
        return {**known, **_parse_mtree(self._root.read(f"var/lib/pacman/local/{owner}/mtree"))}


def _parse_mtree(packed: bytes) -> dict[str, tuple[str, str]]:
    """Return the digests in a compressed mtree(5), by path."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            text = file.read(LARGEST_DATABASE)
    except (OSError, EOFError, zlib.error):
        return {}
    return {
        os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), path)): (how.decode(), digest.decode())
        for path, how, digest in _MTREE.findall(text)
    }


def md5(text: bytes) -> str:
    """Return the MD5 digest that dpkg and pacman use to find changed files."""
    return hashlib.md5(text, usedforsecurity=False).hexdigest()
