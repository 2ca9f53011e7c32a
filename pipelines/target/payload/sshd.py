#!/usr/bin/env python3
"""Reads the sshd configuration and the public host keys in a guest's root, and prints them as JSON.

Runs on libvirt's host with Python's standard library only. The argument is the root; the text of `handover`, which
opens what a guest wrote, comes on standard input.
"""

import fnmatch
import json
import os
import posixpath
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field

_CONFIG = "/etc/ssh/sshd_config"

#: What sshd takes where no HostKey is set; see sshd_config(5).
_DEFAULT_KEYS = tuple(f"/etc/ssh/ssh_host_{kind}_key" for kind in ("ed25519", "ecdsa", "rsa"))

#: A guest writes these files: bytes of one, how many, how deep they include each other, and settings and keys in all.
_LARGEST, _MOST_FILES, _DEEPEST, _MOST_SETTINGS, _MOST_KEYS = 64 << 10, 100, 16, 5000, 16

_BLANKS = " \t\r\n"

#: A keyword and its arguments, with blanks or one equals sign between them.
_SETTING = re.compile(r"(?P<name>[^\s=#][^\s=]*)(?:[ \t]*=[ \t]*|[ \t]+|$)(?P<rest>.*)")

#: A setting: its name in small letters, its arguments, and whether a Match block makes it depend on the connection.
Setting = tuple[str, list[str], bool]


@dataclass
class Reader:
    """Reads files in the root ``path`` with the module ``handover``."""

    handover: types.ModuleType
    path: str
    files: int = field(default=0)

    def read(self, path: str) -> str:
        """Return a file's text; empty where it is missing, too long, or no regular file in the root."""
        self.files += 1
        if self.files > _MOST_FILES:
            return ""
        try:
            return str(self.handover.read(self.path, path.lstrip("/"), _LARGEST).decode(errors="replace"))
        except (self.handover.Refused, OSError):
            return ""

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that a pattern of Include names, in the order in which sshd reads them.

        A directory counts as a file: it may have as many entries as the guest likes.
        """
        self.files += 1
        if self.files > _MOST_FILES:
            return []
        parent, _, name = posixpath.join("/etc/ssh", pattern).rpartition("/")
        if not any(each in name for each in "*?["):
            return [f"{parent}/{name}"]
        root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = self.handover.open_beneath(root, parent.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = sorted(os.listdir(handle))
            finally:
                os.close(handle)
        except (self.handover.Refused, OSError):
            return []
        finally:
            os.close(root)
        found = [each for each in names if fnmatch.fnmatchcase(each, name) and (name[0] == "." or each[0] != ".")]
        return [f"{parent}/{each}" for each in found]


def settings(reader: Reader, path: str = _CONFIG, *, depends: bool = False, depth: int = 0) -> Iterator[Setting]:
    """Yield the settings in a file and in those that it includes, in sshd's order."""
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
    # Paths go on into arguments of programs, which have no null bytes, and into messages.
    found = _SETTING.fullmatch(line.strip(_BLANKS))
    if found is None or not line.strip(_BLANKS).replace("\t", " ").isprintable():
        return []
    try:
        return [found["name"], *shlex.split(found["rest"], comments=True)]
    except ValueError:
        return [found["name"], *found["rest"].split(" ")]


def look(handover: types.ModuleType, root: str) -> dict[str, object]:
    """Return the settings of the sshd in ``root``, and the text of each public host key by the private one's path."""
    reader = Reader(handover, root)
    found = [each for each, _ in zip(settings(reader), range(_MOST_SETTINGS), strict=False)]
    keys = [arguments[0] for name, arguments, depends in found if name == "hostkey" and arguments and not depends]
    reader.files = 0
    chosen = list(dict.fromkeys(keys or _DEFAULT_KEYS))[:_MOST_KEYS]
    return {"settings": found, "public": {path: reader.read(f"{path}.pub") for path in chosen}}


def main() -> None:
    """Print what there is to know; see the module's docstring."""
    handover = types.ModuleType("handover")
    exec(sys.stdin.read(), handover.__dict__)  # noqa: S102 - virtroot's own, sent along
    json.dump(look(handover, sys.argv[1]), sys.stdout)


if __name__ == "__main__":
    main()
