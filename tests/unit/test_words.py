"""The text of the project keeps to docs/words.md: none of the words in the left column of its second table."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT

_PAGE = CHECKOUT / "docs" / "words.md"

#: Generated from the help texts in the code: `./inv reference`.
_GENERATED = CHECKOUT / "docs" / "reference.md"

#: Text that quotes what others wrote.
_QUOTING = (
    # Its patterns are messages of other programs and of former versions.
    "pipelines/symptom/known.py",
)

#: Names of findings in the output of `doctor --json`, which scripts compare.
_NAMES = ('"golden tree"', '"golden trees"')

#: "is no" is wrong where it means "is not a".
_AFTER_IS_NO = r"(?<!there )(?<!this )(?<!that )\b{}\b(?! (?:longer|more|one|\w+er than)\b)"


def _left_column() -> list[str]:
    table = _PAGE.read_text(encoding="utf-8").partition("## Words to avoid")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


def _pattern(word: str) -> re.Pattern[str]:
    # After two hyphens it is the name of an option: --carry.
    text = re.escape(word).replace(r"\ ", r"\s+")
    # A name of the code, like `programs.collect_facts`, also in the braces of an f-string, and an option are not text.
    pattern = _AFTER_IS_NO.format(text) if word.endswith(" no") else rf"(?<!--)\b{text}\b(?!\.[a-zA-Z_])"
    return re.compile(pattern, re.IGNORECASE)


_AVOIDED = {word: _pattern(word) for word in _left_column()}


def avoided(text: str) -> list[str]:
    """Return the words of the left column that are in ``text``."""
    return [word for word, pattern in _AVOIDED.items() if pattern.search(text)]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and text of a page; of a Python file its strings and comments, with more than one word."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in kinds and " " in token.string and token.string not in _NAMES:
            yield from enumerate(token.string.splitlines(), token.start[0])


def _files() -> list[Path]:
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("pipelines/**/*.py")]
    found.append(CHECKOUT / "tasks.py")
    names = [path.relative_to(CHECKOUT) for path in found if path not in (_PAGE, _GENERATED)]
    return sorted(name for name in names if not any(name.is_relative_to(old) for old in _QUOTING))


@pytest.mark.parametrize("name", _files(), ids=str)
def test_text_has_none_of_the_words_to_avoid(name: Path) -> None:
    found = [f"{name}:{number}: {avoided(text)}: {text}" for number, text in _texts(CHECKOUT / name) if avoided(text)]
    assert not found, "\n".join(["see docs/words.md:", *found])


def test_the_table_is_read() -> None:
    assert avoided("The file is no directory, and was written anew.") == ["anew", "is no"]
    assert avoided("There is no directory, and it is no longer there.") == []
    assert avoided("See `programs.collect_facts`, which runs beside libvirt.") == ["beside"]
    assert avoided("See `programs.collect_facts` and --carry.") == []
