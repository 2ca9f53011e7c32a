"""The book: what it says is typed can be typed, and says who ran it; what is written from the code is current."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
from invoke.parser.context import ParserContext

import tasks
from pipelines import help as explaining
from pipelines.book import pages, reference, site
from pipelines.cli.command_line import Line
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT
from tests import book
from tests.book import Block

BLOCKS = [block for page in book.pages() for block in book.blocks(page)]
COMMANDS = [block for block in BLOCKS if block.language == "sh"]


def read(words: list[str]) -> ParserContext:
    """Read a command line as ./inv would; raises `VirtrootError` where it would."""
    line = Line(tasks.program.initial_context, tasks.program.contexts)
    for word in tasks.program._split_command(words)[0]:
        line.take(word)
    if not {"--help", "--list"} & {*words}:
        line.finish()
    assert line.called or words[0].startswith("--")
    return line.context


def test_the_blocks_are_found() -> None:
    text = "".join((book.DOCS / f"{page}.md").read_text() for page in book.pages())
    assert len(COMMANDS) == len(re.findall(r"^ *```sh", text, re.MULTILINE)) > 40
    assert {block.page for block in COMMANDS if block.status is not None} >= {"first-recipe", "guests", "upgrade"}


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: f"{block.page}: {block.text.splitlines()[0]}")
def test_commands_can_be_typed_and_say_who_ran_them(block: Block) -> None:
    for words in block.commands:
        read(words)
    assert [block.status is not None, bool(block.test), bool(block.reason)].count(True) == 1, block.note
    # What the test ran is looked at when it did: tests/support/recording.py.
    assert not block.test or named(block.test)


def named(test: str) -> bool:
    """Say whether there is the test that ``FILE::NAME`` names."""
    file, _, name = test.partition("::")
    body = ast.parse((CHECKOUT / file).read_text()).body
    return name in {node.name for node in body if isinstance(node, ast.FunctionDef)}


README = (CHECKOUT / "README.md").read_text()

#: A task's name and what belongs to it, in the tables of commands.
ROWS = [
    [code for code in book.inline(row) if not code.startswith("cache:")]
    for row in (book.DOCS / "cheat-sheet.md").read_text().splitlines()
    if row.startswith("| `")
]


def begin(words: list[str]) -> ParserContext:
    """Read the beginning of a command line, which may lack a name; raises `VirtrootError` for what fits nowhere."""
    line = Line(tasks.program.initial_context, tasks.program.contexts)
    for word in tasks.program._split_command(words)[0]:
        line.take(word)
    return line.context


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_cheat_sheets_commands_can_be_typed(row: list[str]) -> None:
    called = []
    for code in row:
        words = book.words_of(code if code.startswith("./inv ") else f"./inv {code}")
        if code.startswith("./inv "):
            called.append(read(words))
        elif words[0] in tasks.program.contexts:
            called.append(begin(words))
    assert row[0].startswith("./inv ")
    for code in row:
        if code.startswith("--"):
            name = code.split()[0]
            assert any(name in each.flags for each in called), f"{row[0]} has no {name}"
            begin([next(str(each.name) for each in called if name in each.flags), *code.split()])


@pytest.mark.parametrize("typed", re.findall(r"(?m)^ {4}(\./inv .*)$", README))
def test_the_readmes_commands_can_be_typed(typed: str) -> None:
    read(book.words_of(typed))


@pytest.mark.parametrize("page", ["README", *book.pages()])
def test_commands_inside_lines_can_be_typed(page: str) -> None:
    text = README if page == "README" else (book.DOCS / f"{page}.md").read_text()
    for code in book.inline(text):
        if code.startswith("./inv "):
            words = book.words_of(code)
            begin(words)
            if words[0] == "help" and len(words) == 2 and not words[1].isupper():
                assert explaining.find_parts(words[1])
        elif code.startswith("--") and page == "README":
            assert any(code.split()[0] in context.flags for context in tasks.program.contexts.values()), code


def test_the_readmes_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    found = [one or other for one, other in links if not re.match(r"https?://", one or other)]
    assert len(found) > 20
    for link in found:
        path, _, anchor = link.partition("#")
        assert (CHECKOUT / path).exists(), link
        assert not anchor or f"#{anchor} }}" in (CHECKOUT / path).read_text(), link


@pytest.mark.parametrize("name", sorted(tasks.program.contexts))
def test_every_task_has_an_example_that_can_be_typed(name: str) -> None:
    summary, _, examples = inspect.cleandoc(str(tasks.registry[name].__doc__)).partition("\n\n")
    assert summary.endswith(".")
    assert examples.splitlines()
    for example in examples.splitlines():
        program, *words = shlex.split(example.partition(" > ")[0])
        assert program == "./inv"
        assert read(words).name == name


def test_what_is_shown_first_fits_and_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    typed = [line.split("  ")[1] for line in lines if line.startswith("  ./inv")]
    assert len(typed) == 10
    for line in typed:
        read(line.split()[1:])


def test_the_reference_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "reference"])
    assert capsys.readouterr().out == (book.DOCS / "reference.md").read_text(), "./inv reference > docs/reference.md"


def test_the_reference_has_the_options_of_every_task() -> None:
    known = [
        (each.names[0], "".join(each.names[1:]), each.takes_value, each.help) for each in tasks.program.core_args()
    ]
    assert [*reference.CORE] == sorted(known)


def test_the_reference_has_a_part_for_each_type_and_key_that_it_names() -> None:
    text = (book.DOCS / "reference.md").read_text()
    parts = re.findall(r"(?m)^#+ .* \{ #([\w-]+) \}$", text)
    assert {*re.findall(r"\]\(#([\w-]+)\)", text)} <= {*parts}
    assert {"keys-of-mirror", "keys-of-snapshot", "keys-of-guest", "manifest-package", "options"} <= {*parts}


@pytest.mark.parametrize("page", book.pages())
def test_tests_that_a_page_names_are_there(page: str) -> None:
    for file, test in re.findall(r"`?(tests/[\w/]+\.py)::(test_\w+)", (book.DOCS / f"{page}.md").read_text()):
        assert named(f"{file}::{test}"), f"{file}::{test}"


def test_each_gotcha_names_its_test() -> None:
    text = (book.DOCS / "gotchas.md").read_text()
    found = re.split(r"\n\n(?=\*\*)", text)[1:]
    assert len(found) == 23
    for gotcha in found:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", gotcha), gotcha


def test_help_shows_pages_and_parts_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    tasks.program.run(["inv", "help"])
    listed = capsys.readouterr().out
    assert all(f"\n{page} " in listed for page in book.pages() if page != "index")
    tasks.program.run(["inv", "help", "docker"])
    page = capsys.readouterr().out
    assert page.startswith("# Docker inside a guest\n")
    assert "<!--" not in page
    tasks.program.run(["inv", "help", "task-start"])
    part = capsys.readouterr().out
    assert part.startswith("### start\n")
    assert "### status" not in part


@pytest.mark.parametrize("path", ["mkdocs.yml", "docs/index.md"])
def test_whoever_reads_page_after_page_follows_the_story(path: str) -> None:
    """In this order the commands work: each page takes the guest as the one before it left it."""
    text = (CHECKOUT / path).read_text()
    places = [text.index(f"{page}.md") for page in book.STORY]
    assert places == sorted(places)


def test_the_site_is_made_so_that_broken_links_are_counted(tmp_path: Path) -> None:
    argv = site.command(tmp_path)
    assert "--strict" in argv
    # With it, mkdocs drops the warnings that --strict is about.
    assert not {"--quiet", "-q"} & {*argv}


def test_a_comment_in_commands_is_no_heading() -> None:
    page = pages.Part("p", "P", "# P\n\n## One { #one }\n\n```sh\n# no heading { #none }\n```\n\n## Two { #two }\n")
    assert [part.name for part in pages.list_parts(page)] == ["one", "two"]


def test_a_page_that_is_not_there_is_refused_with_what_is_near() -> None:
    with pytest.raises(VirtrootError, match="no page 'dokcer'") as refused:
        pages.get_page("dokcer")
    assert "./inv help docker" in refused.value.hint
    with pytest.raises(VirtrootError, match="no page ''"):
        pages.get_page("")
    assert pages.get_page("first").name == "first-recipe"


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs/design").glob("*.md")), ids=lambda page: page.stem)
def test_a_design_page_names_each_module_of_its_package(page: Path) -> None:
    package = CHECKOUT / "pipelines" / page.stem
    if page.stem == "refused":
        assert not package.exists()
        return
    text = page.read_text(encoding="utf-8")
    names = {each.stem for each in package.glob("*.py")} - {"__init__", "__main__"}
    assert {name for name in names if f"`{name}`" not in text} == set()
