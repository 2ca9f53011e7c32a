"""Signs of a system's former environment (a cloud, a container, a build, …), and what the import does about each.

`pipelines.target.payload.signs` finds the signs in a root. Patterns are Python's; the verbs of `import-root` take
extended regular expressions of POSIX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.origin.environment_signs import BUILD, CLOUD, CONTAINER
from pipelines.origin.machine_signs import DISK, KERNEL, NETWORK
from pipelines.origin.sign import Sign
from pipelines.text import trim

#: For each sign found, the paths, each with the texts that match the sign's pattern.
Shown = Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]

SIGNS = (*CLOUD, *CONTAINER, *BUILD, *DISK, *KERNEL, *NETWORK)

BY_NAME = {sign.name: sign for sign in SIGNS}


def make_queries() -> dict[str, dict[str, Any]]:
    """Return the data to find each sign, by name."""
    return {sign.name: sign.query for sign in SIGNS}


def parse_answer(answer: Mapping[str, Any]) -> Shown:
    """Convert the answer of `pipelines.target.payload.signs` to the signs found."""
    return {name: tuple((path, tuple(texts)) for path, texts in shown) for name, shown in answer.items()}


def describe_origin(sign: Sign) -> str:
    """Return in words what a sign in an installed root means."""
    if sign.origin == "kernel":
        return "the next kernel will not boot"
    return f"left of {'an' if sign.origin[0] in 'aeiou' else 'a'} {sign.origin}"


def format_paths(shown: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Format the paths of a sign."""
    return _format_list([path for path, _ in shown])


def describe(sign: Sign, shown: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Return the message about a sign that was found."""
    names = [path.rpartition("/")[2] for path, _ in shown]
    texts = dict.fromkeys(trim(text) for _, found in shown for text in found if trim(text))
    return sign.said.format(paths=format_paths(shown), names=_format_list(names), found=_format_list(list(texts)))


def _format_list(each: list[str]) -> str:
    """Join the first five, and the number of the others."""
    more = f" and {len(each) - 5} more" if len(each) > 5 else ""
    return f"{', '.join(each[:5])}{more}"
