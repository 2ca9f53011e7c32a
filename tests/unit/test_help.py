"""`./inv help`: how it finds the section of a symptom."""

from __future__ import annotations

import pytest

from pipelines import help as explaining
from pipelines.book import pages
from pipelines.errors import VirtrootError
from pipelines.symptom.known import SYMPTOMS
from pipelines.symptom.symptom import Symptom
from tests.support.messages import MESSAGES


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.name)
def test_help_shows_the_section_that_an_error_names(symptom: Symptom) -> None:
    part = pages.get_page(symptom.name)
    assert part.title == f"`{symptom.heading}`"
    assert pages.as_text(part).rstrip("\n").split("\n\n")[-1].startswith(("*Tried*", "*Read*"))


@pytest.mark.parametrize(("name", "line", "source"), MESSAGES)
def test_help_finds_a_section_by_what_was_written(name: str, line: str, source: str) -> None:
    assert explaining.find_parts(line)[0].name == name, source


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.name)
def test_help_finds_a_section_by_its_heading_however_it_is_typed(symptom: Symptom) -> None:
    typed = symptom.heading
    for text in (typed, typed.lower(), f"`{typed}`", f"Nov 28 07:41:16 web prog[7]: {typed.upper()}!"):
        assert symptom.name in [part.name for part in explaining.find_parts(text)][:2], text


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("failed to set msg fds", "message-header"),
        ("system loop", "filesystem-loop"),
        ("gave up waiting for root", "waits-for-device"),
    ],
)
def test_help_finds_a_section_by_words_that_stand_in_it(typed: str, name: str) -> None:
    assert explaining.find_parts(typed)[0].name == name


def test_help_names_the_other_symptoms_of_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {name: line for name, line, _ in MESSAGES}
    explaining.show_topic(f"{lines['root-locked']}\n{lines['tag-not-found']}")
    said = capsys.readouterr()
    assert said.out.startswith("## `virtio-fs: tag <root> not found`\n")
    assert said.err == "also: ./inv help root-locked\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("the dog ate it", "run ./inv help troubleshooting for the known errors"),
        ("handle", "run ./inv help stale-handle, or ./inv help"),
        ("", "run ./inv help for the pages"),
        ("\x1b[31m", "run ./inv help for the pages"),
    ],
)
def test_an_unknown_topic_of_help_is_refused_with_a_hint(typed: str, hint: str) -> None:
    with pytest.raises(VirtrootError, match="no page") as refused:
        explaining.find_parts(typed)
    assert refused.value.hint == hint
