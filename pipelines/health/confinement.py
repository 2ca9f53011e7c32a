"""What AppArmor lets libvirt's daemon run, by the text of its profile; see apparmor.d(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipelines.text import split_lines

# A path, quoted or not, and permissions, of which one is to run the program (ix, Px, PUx, …).
_RULE = re.compile(r'^\s*(?:(?:audit|allow|owner)\s+)*"?(?P<path>/[^\s"]*)"?\s+(?P<may>[a-zA-Z]+)\s*(?:->[^,]*)?,')


def may_run(profiles: Iterable[str], path: str) -> bool:
    """Say whether one of the profiles has a rule that lets ``path`` be run.

    Rules with variables are not understood, and taken for rules of something else; denials neither.
    """
    rules = (_RULE.match(line) for text in profiles for line in split_lines(text))
    return any(
        "x" in rule["may"].lower() and "@" not in rule["path"] and _pattern(rule["path"]).fullmatch(path)
        for rule in rules
        if rule
    )


def _pattern(glob: str) -> re.Pattern[str]:
    """Translate AppArmor's way to name many files."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
    depth, found = 0, ""
    for part in re.findall(r"\*\*|\[[^\]]*\]|.", glob):
        depth += {"{": 1, "}": -1}.get(part, 0)
        plain = part == "," and not depth
        found += part if part.startswith("[") else re.escape(part) if plain else words.get(part, re.escape(part))
    try:
        return re.compile(found)
    except re.error:
        return re.compile(r"(?!)")
