"""The page of known errors in the book: a section for each symptom."""

from __future__ import annotations

import ast
import re

import pytest

from pipelines.settings import CHECKOUT
from pipelines.symptom.known import SYMPTOMS

BOOK = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

SECTIONS = re.findall(r"(?ms)^## (.*?) \{ #([\w-]+) \}\n(.*?)(?=^## |\Z)", BOOK)


def test_the_book_has_a_section_for_each_symptom_and_no_other() -> None:
    assert [(heading.strip("`"), name) for heading, name, _ in SECTIONS] == [
        (symptom.heading, symptom.name) for symptom in sorted(SYMPTOMS, key=lambda each: BOOK.find(f"#{each.name} }}"))
    ]
    assert len(re.findall(r"(?m)^## ", BOOK)) == len(SYMPTOMS)


@pytest.mark.parametrize(("heading", "name", "text"), SECTIONS, ids=[name for _, name, _ in SECTIONS])
def test_a_section_has_commands_and_a_source(heading: str, name: str, text: str) -> None:
    # Angle brackets outside of code are HTML to Markdown.
    assert heading.startswith("`")
    assert "\n```sh\n" in text, "no command"
    tried = text.strip().split("\n\n")[-1]
    assert tried.startswith(("*Tried*: `tests/", "*Read*: "))
    for file, test in re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", tried):
        functions = [node.name for node in ast.parse((CHECKOUT / file).read_text()).body if hasattr(node, "name")]
        assert test in functions, f"{file}::{test}"


def test_links_between_sections_have_a_target() -> None:
    for anchor in re.findall(r"\]\(#([\w-]+)\)", BOOK):
        assert anchor in re.findall(r"\{ #([\w-]+) \}", BOOK)
