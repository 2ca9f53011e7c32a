"""Reads the sshd configuration and the public host keys in a guest's root."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import beneath, guest_files
from .errors import Refused

_CONFIG = "/etc/ssh/sshd_config"

#: The host keys that sshd uses if no HostKey is set; see sshd_config(5).
_DEFAULT_KEYS = tuple(f"/etc/ssh/ssh_host_{kind}_key" for kind in ("ed25519", "ecdsa", "rsa"))

#: Limits for what a guest writes: bytes of a file, files, levels of Include, settings, and host keys.
_LARGEST, _MOST_FILES, _DEEPEST, _MOST_SETTINGS, _MOST_KEYS = 64 << 10, 100, 16, 5000, 16

_BLANKS = " \t\r\n"

#: A keyword and its arguments, with blanks or one equals sign between them.
_SETTING = re.compile(r"(?P<name>[^\s=#][^\s=]*)(?:[ \t]*=[ \t]*|[ \t]+|$)(?P<rest>.*)")

#: A setting: its name in small letters, its arguments, and whether a Match block makes it depend on the connection.
Setting = tuple[str, list[str], bool]


@dataclass
class Reader:
    """Reads at most `_MOST_FILES` files of the root ``path``."""

    path: str
    files: int = field(default=0)

    def read(self, path: str) -> str:
        """Return the text of a file; empty if it is missing, too large, or not a regular file in the root."""
        self.files += 1
        if self.files > _MOST_FILES:
            return ""
        try:
            return guest_files.read(self.path, path.lstrip("/"), _LARGEST).decode(errors="replace")
        except (Refused, OSError):
            return ""

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern of Include, in the order in which sshd reads them.

        A directory counts as a file, because a guest can put any number of entries into it.
        """
        self.files += 1
        if self.files > _MOST_FILES:
            return []
        parent, _, name = posixpath.join("/etc/ssh", pattern).rpartition("/")
        if not any(each in name for each in "*?["):
            return [f"{parent}/{name}"]
        try:
            with beneath.opened(self.path) as root:
                handle = beneath.open_beneath(root, parent.lstrip("/"), beneath.DIRECTORY)
            try:
                names = sorted(os.listdir(handle))
            finally:
                os.close(handle)
        except (Refused, OSError):
            return []
        found = [each for each in names if fnmatch.fnmatchcase(each, name) and (name[0] == "." or each[0] != ".")]
        return [f"{parent}/{each}" for each in found]


def settings(reader: Reader, path: str = _CONFIG, *, depends: bool = False, depth: int = 0) -> Iterator[Setting]:
    """Yield the settings in a file and in the files that it includes, in sshd's order."""
    for line in reader.read(path).split("\n"):
        words = _words(line)
        if not words:
            continue
        name, arguments = words[0].lower(), words[1:]
        if name == "match":
            depends = [each.lower() for each in arguments] != ["all"]
        elif name == "include" and depth < _DEEPEST:
            # A Match block in an included file ends with that file.
            for each in (each for pattern in arguments for each in reader.matching(pattern)):
                yield from settings(reader, each, depends=depends, depth=depth + 1)
        else:
            yield name, arguments, depends


def _words(line: str) -> list[str]:
    # Paths become arguments of programs, which cannot contain null bytes, and parts of messages.
    found = _SETTING.fullmatch(line.strip(_BLANKS))
    if found is None or not line.strip(_BLANKS).replace("\t", " ").isprintable():
        return []
    try:
        return [found["name"], *shlex.split(found["rest"], comments=True)]
    except ValueError:
        return [found["name"], *found["rest"].split(" ")]


def read_sshd(root: str) -> dict[str, object]:
    """Return the ``settings`` of the sshd in ``root``, and ``public`` host keys by the paths of the private ones."""
    reader = Reader(root)
    found = [each for each, _ in zip(settings(reader), range(_MOST_SETTINGS))]
    keys = [arguments[0] for name, arguments, depends in found if name == "hostkey" and arguments and not depends]
    reader.files = 0
    chosen = list(dict.fromkeys(keys or _DEFAULT_KEYS))[:_MOST_KEYS]
    return {"settings": found, "public": {path: reader.read(f"{path}.pub") for path in chosen}}
