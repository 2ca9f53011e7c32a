"""Which programs AppArmor lets libvirt's daemon run, according to the text of its profile; see apparmor.d(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipelines.text import split_lines

# A path, quoted or not, and permissions, one of which allows to run the program (ix, Px, PUx, …).
_RULE = re.compile(r'^\s*(?:(?:audit|allow|owner)\s+)*"?(?P<path>/[^\s"]*)"?\s+(?P<may>[a-zA-Z]+)\s*(?:->[^,]*)?,')


def is_run_allowed(profiles: Iterable[str], path: str) -> bool:
    """Return whether one of the profiles has a rule that allows to run ``path``.

    Rules with variables are not evaluated and do not count, and neither do rules that deny.
    """
    rules = (_RULE.match(line) for text in profiles for line in split_lines(text))
    return any(
        "x" in rule["may"].lower() and "@" not in rule["path"] and _translate_glob(rule["path"]).fullmatch(path)
        for rule in rules
        if rule
    )


def _translate_glob(glob: str) -> re.Pattern[str]:
    """Translate a glob of AppArmor into a regular expression."""
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
