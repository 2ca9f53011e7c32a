"""Finds the directories that a virtiofsd serves."""

from __future__ import annotations

import os
from collections.abc import Sequence


def find_unserved(directories: Sequence[str]) -> list[str]:
    """Return the ``directories`` that no virtiofsd of libvirt's serves.

    libvirt passes the socket to every virtiofsd by --fd, and the directory as an argument of its own or, in older
    versions, as one of several options, in which commas are doubled.
    """
    commands = [words for words in _list_commands() if any(word.startswith(b"--fd=") for word in words)]
    return [each for each in directories if not any(_serves(words, os.fsencode(each)) for words in commands)]


def _serves(words: Sequence[bytes], directory: bytes) -> bool:
    option = b"source=" + directory.replace(b",", b",,")
    return any(word in (directory, option) or word.startswith(option + b",") for word in words)


def _list_commands() -> list[list[bytes]]:
    commands = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                commands.append(line.read().split(b"\0"))
        except OSError:
            continue  # the process has exited
    return commands
