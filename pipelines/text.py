"""Text that others wrote, made safe for a person's terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import AnyStr

#: Escape sequences are those of ECMA-48 and xterm's ctlseqs, each read to its own end and never further than its line:
#: what a guest opens and does not close must not hide the lines that follow.
_UNWANTED = re.compile(
    r"""
    (?: \x1b\[ | \x9b ) [0-?]*+ [ -/]*+ [@-~]                                  # CSI: colours, the cursor, the screen
  | (?: \x1b\] | \x9d ) [^\x00-\x08\x0a-\x1f\x7f-\x9f]*+ (?: \x07 | \x1b\\ | \x9c )      # OSC: titles, the clipboard
  | (?: \x1b[PX^_] | [\x90\x98\x9e\x9f] ) [^\x00-\x08\x0a-\x1f\x7f-\x9f]*+ (?: \x1b\\ | \x9c )  # DCS, SOS, PM, APC
  | \x1b [ -/]*+ [0-~]                                                           # two bytes, or a character set's three
  | (?P<line> \r+\n? )
  | (?P<surrogate> [\ud800-\udfff] )
  | [\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]                                        # what is left of C0, DEL and C1
  | [\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]                               # bidi: shows text in another order
  | [\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]  # invisible formats, tags
    """,
    re.VERBOSE,
)


def plain(text: str) -> str:
    r"""Return ``text`` with nothing but printable characters, newlines and tabs.

    Well-formed escape sequences go whole, so that colours leave no litter; then every control character (C0, DEL, C1)
    and Unicode's characters that reorder or hide text. Each kind of line end becomes ``\n``. One pass from left to
    right: what remains is never looked at again, so pieces on both sides of something removed cannot make a new escape.
    """
    return _UNWANTED.sub(_instead, text)


#: What stands before the host in an address: of a web address all of it, since a token may be the whole, of others a
#: password and its user.
_LOGIN = re.compile(r"(?:(?<=http://)|(?<=https://))[^/\s'\"]+@|(?<=://)[^/\s'\":]*:[^/\s'\"]*@", re.IGNORECASE)


def without_logins(text: str) -> str:
    """Return ``text`` without the passwords and tokens that addresses in it have."""
    return _LOGIN.sub("***@", text) if "@" in text else text


def one_line(text: str) -> str:
    """Return ``text`` plain and on one line."""
    return " ".join(line.strip(" \t") for line in plain(text).split("\n")).strip(" \t")


def flat(text: str) -> str:
    """Return ``text`` plain and on one line, with the blanks at its beginning: for a line that quotes what it is told.

    What a guest wrote, such as where a link leads, could otherwise add lines that look like virtroot's own.
    """
    return plain(text).rstrip("\n").replace("\n", " ")


def split_lines(text: AnyStr) -> list[AnyStr]:
    """Split ``text`` at newlines, as the kernel and the programs of a system do.

    `str.splitlines` and `bytes.splitlines` split at more characters, such as U+2028 or a carriage return. Whoever
    writes one into a file would make two lines for virtroot of one line for the system.
    """
    newline = b"\n" if isinstance(text, bytes) else "\n"
    return text.removesuffix(newline).split(newline) if text else []


def split_fields(line: AnyStr, most: int = 0) -> list[AnyStr]:
    """Split ``line`` at spaces and tabs, as fstab(5) and most files of lines have it; into ``most`` fields, if given.

    `str.split` without an argument splits at more characters, such as a no-break space or a form feed.
    """
    blanks = rb"[ \t]+" if isinstance(line, bytes) else r"[ \t]+"
    trimmed = trim(line)
    return re.split(blanks, trimmed, maxsplit=max(most - 1, 0)) if trimmed else []


def trim(text: AnyStr) -> AnyStr:
    """Return ``text`` without the spaces, tabs and newlines at its ends, and nothing else."""
    return text.strip(b" \t\n" if isinstance(text, bytes) else " \t\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return ``rows``, the first with the headings, as columns of equal width; each row is one line."""
    cells = [[one_line(cell).replace("\t", " ") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(" ") for row in cells
    )


def age(seconds: int | None) -> str:
    """Write a time span in its largest unit: 40s, 12m, 5h, 3d."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"


def size(count: int | None) -> str:
    """Write a number of bytes in its largest unit, with one digit behind the point below ten."""
    if count is None:
        return "-"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f} {units[0]}" if amount < 10 and units[0] != "B" else f"{amount:.0f} {units[0]}"


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its word."""
    return f"{number} {one if number == 1 else many}"


def _instead(found: re.Match[str]) -> str:
    if found["line"]:
        return "\n"
    # No encoding can print half of a pair; it comes from bytes that were no UTF-8.
    return "\N{REPLACEMENT CHARACTER}" if found["surrogate"] else ""
