"""What tests run: each command of the book is one that its test ran, with the options that the book gives it."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence

from tests.book import Block

#: Which root is meant, a test says in its own way.
_WHICH = frozenset({"--distro", "--recipe", "--artifact"})

#: The words of all programs that ran, by the test (``FILE::NAME``), or by the file for what its fixtures ran.
_ran: dict[str, list[tuple[str, ...]]] = defaultdict(list)


def note(argv: Sequence[object]) -> None:
    """Remember that the test that runs now has run ``argv``."""
    nodeid, _, when = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    test = nodeid.partition("[")[0]
    words = tuple(os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in argv)
    _ran[test if when == "(call)" else test.partition("::")[0]].append(words)


def listen() -> None:
    """Note each program that this process starts from now on."""

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and isinstance(arguments[1], list | tuple):
            note(arguments[1])

    sys.addaudithook(hear)


def missing(block: Block) -> list[str]:
    """Return what of a block's commands its test did not run."""
    ran = [*_ran[block.test], *_ran[block.test.partition("::")[0]]]
    ours = [words[place + 1 :] for words in ran for place, word in enumerate(words) if word.rpartition("/")[2] == "inv"]
    programs = {words[0].rpartition("/")[2] for words in ran if words}
    left = [" ".join(words) for words in block.commands if not any(_is(words, each) for each in ours)]
    return left + sorted(block.programs - programs)


def _is(written: Sequence[str], ran: Sequence[str]) -> bool:
    """Say whether a command has the task and the options that are ``written``."""
    if not ran or ran[0] != written[0]:
        return False
    # What --generator overrides, the test's recipe says.
    elsewhere = _WHICH | {"--generator"} if written[0] == "build" else _WHICH
    return _options(written) - elsewhere <= _options(ran)


def _options(words: Sequence[str]) -> set[str]:
    before = words[: words.index("--")] if "--" in words else words
    return {word.partition("=")[0] for word in before if word.startswith("--")}
