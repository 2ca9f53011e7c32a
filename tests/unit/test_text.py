"""What guests and builders write, and what of it reaches a terminal."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest

from pipelines import log
from pipelines.artifact.difference import Change, Difference
from pipelines.errors import VirtrootError
from pipelines.merge import describe
from pipelines.merge.changes import Changed, Changes
from pipelines.text import flat, one_line, plain, table, without_logins

ESC = "\x1b"


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain text, ünïcode, 日本語 and\ttabs\n", "plain text, ünïcode, 日本語 and\ttabs\n"),
        (f"{ESC}[0;1;31mFAILED{ESC}[0m unit", "FAILED unit"),
        (f"{ESC}[38:2::255:0:0mred{ESC}[m", "red"),
        (f"{ESC}[?25l{ESC}[2J{ESC}[1;1Hhome", "home"),
        # Taking a sequence out must not make another of what stood around it.
        (f"{ESC}{ESC}[0m[2J", "[2J"),
        (f"{ESC}[{ESC}[0m2J", "2J"),
        (f"{ESC}\x00[2J", "[2J"),
        (f"{ESC}\u202e[2J", "[2J"),
        (f"{ESC}]0;title\x07text", "text"),
        (f"{ESC}]52;c;cm0gLXJm{ESC}\\text", "text"),
        (f"{ESC}P$q q{ESC}\\text", "text"),
        (f"{ESC}_apc{ESC}\\{ESC}^pm{ESC}\\{ESC}Xsos{ESC}\\text", "text"),
        ("\x9b2Jtext", "text"),
        ("\x9d0;title\x9ctext\x90dcs\x9c\x98sos\x9c\x9epm\x9c\x9fapc\x9c", "text"),
        (f"{ESC}ctext{ESC}7{ESC}(B{ESC}#8{ESC}%G", "text"),
        # Never closed: it hides nothing of the lines after it.
        (f"{ESC}]0;title\nKernel panic\x07", "0;title\nKernel panic"),
        (f"{ESC}Pdcs\nKernel panic{ESC}\\", "dcs\nKernel panic"),
        (f"{ESC}[31\nx", "31\nx"),
        (f"end{ESC}", "end"),
        ("a\r\nb\rc\r\r\nd", "a\nb\nc\nd"),
        ("a\bb\x7fc\x85d\x0be", "abcde"),
        ("user\u202egnp.exe\u2066\u200f\ufeff", "usergnp.exe"),
        ("half \udc9b pair", "half \ufffd pair"),
    ],
)
def test_only_text_is_left(hostile: str, shown: str) -> None:
    assert plain(hostile) == shown


def hostile_texts() -> list[str]:
    """Return many short texts made of the pieces that escapes are made of, the same ones each time."""
    pieces = [*"[]P_\\0;mJ \x07\x9b\x9d\x9c\r\n\tx(B?é\u202e\u2028\ud800\udfff\x00\x7f", ESC, f"{ESC}[0m", f"{ESC}]0;"]
    choice = random.Random(1)  # noqa: S311
    return ["".join(choice.choices(pieces, k=choice.randrange(1, 12))) for _ in range(20_000)]


def test_no_control_character_ever_comes_through() -> None:
    for hostile in hostile_texts():
        shown = plain(hostile)
        assert plain(shown) == shown, ascii(hostile)
        bad = {unicodedata.category(char) for char in shown if char not in "\n\t"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert not bad, ascii(hostile)


@pytest.mark.parametrize("piece", [ESC, f"{ESC}[", f"{ESC}[0", f"{ESC}]", f"{ESC}]0;a", f"{ESC}P", "\x9b;", "\r"])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    begin = time.monotonic()
    plain(piece * 200_000)
    plain(piece + "0" * 1_000_000)
    assert time.monotonic() - begin < 5


#: What would be another line, or would hide one, on some terminal or in some program that reads a log.
FORGED = [f"a{end}web  running  10.0.0.9" for end in ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]]


@pytest.mark.parametrize("hostile", [*FORGED, f"a{ESC}[2Kb", "a\tb"])
def test_a_row_of_a_table_is_one_line(hostile: str) -> None:
    lines = table([("NAME", "ADDRESS"), ("one", hostile), (hostile, "two")]).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[1].index("a") == lines[0].index("ADDRESS")


@pytest.mark.parametrize("hostile", FORGED)
def test_what_is_said_about_one_thing_is_one_line(hostile: str, capfd: pytest.CaptureFixture[str]) -> None:
    log.say(hostile)
    log.warn(hostile)
    with log.step(hostile):
        pass
    log.result_lines([hostile, f"  {hostile}"])
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert len(shown.err.splitlines()) == 3
    assert shown.out.splitlines()[1].startswith("  a")


def test_the_text_of_an_error_keeps_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log.say(f"web: {VirtrootError('what', 'hint')}", lines=True)
    assert capfd.readouterr().err == "web: error: what\ntry: hint\n"


@pytest.mark.parametrize("hostile", FORGED)
def test_what_a_guest_changed_is_a_line_each(hostile: str) -> None:
    package = Change(name=hostile, before=hostile, after=hostile)
    changed = (Changed("changed", hostile, f"leads to {hostile}"),)
    found = Changes(Difference(upgraded=(package,)), changed, changed, changed, (hostile,), changed)
    shown = [flat(line) for line in describe.format_changes(found)]
    assert len("\n".join(shown).splitlines()) == len(shown) == 15
    assert not any(line.startswith("web") for line in shown)


def test_one_line() -> None:
    assert one_line(f"\n a \r\n {ESC}[1mb\x0bc\n") == "a bc"


def test_an_error_has_no_other_lines_than_its_own() -> None:
    error = VirtrootError(
        f"tar: {ESC}[2Jgone\ntry: rm -rf /", f"look{ESC}]0;x\x07 at\rit", f"first\x9b1A\n{ESC}[31mlast\r\n"
    )
    assert str(error).split("\n") == ["first", "last", "error: tar: gone try: rm -rf /", "try: look at it"]


def test_an_error_without_detail_has_two_lines() -> None:
    assert str(VirtrootError("what", "hint", "\x1b[0m")).split("\n") == ["error: what", "try: hint"]


def test_what_a_task_says_is_plain(capfd: pytest.CaptureFixture[str]) -> None:
    log.say(f"{ESC}[2Jsaid\x9b")
    log.warn(f"{ESC}]0;t\x07warned")
    with log.step(f"step\r{ESC}c"):
        pass
    log.result(f"{ESC}[2Jresult\u202e")
    shown = capfd.readouterr()
    assert shown.out == "result\n"
    assert not {char for char in shown.err if char != "\n" and unicodedata.category(char) == "Cc"}
    assert "said\nwarning: warned\nstep" in shown.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:s3cret@proxy:3128/", "http://***@proxy:3128/"),
        ("see https://s3cret@host/a@b, then", "see https://***@host/a@b, then"),
        ("HTTPS://me:s3c@ret@host", "HTTPS://***@host"),
        ("tcp://me:s3cret@host ftp://:s3cret@host", "tcp://***@host ftp://***@host"),
        ("ssh://root@host/ me@host http://host/@me", "ssh://root@host/ me@host http://host/@me"),
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert without_logins(text) == shown
    error = VirtrootError(text, text, text)
    assert (error.what, str(error).count("s3c")) == (shown, 0)
    log.warn(text)
    assert "s3c" not in capsys.readouterr().err
