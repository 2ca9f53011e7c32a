"""Text from guests, packages and recipes, made safe for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import AnyStr

#: The escape sequences are those of ECMA-48 and xterm's ctlseqs. Each is matched to its end, but not past its line: a
#: sequence that a guest does not end must not hide the following lines.
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
    r"""Return ``text`` with printable characters, newlines and tabs only.

    Well-formed escape sequences are removed as a whole, so that nothing of a colour remains. All other control
    characters (C0, DEL, C1) and Unicode's characters that reorder or hide text are removed, too. Each kind of line end
    becomes ``\n``. Removal is one pass from left to right over the input. So the text on both sides of a removed
    sequence is never joined to a new one.
    """
    return _UNWANTED.sub(_replace, text)


#: The login in front of the host in an address: for a web address all of it, because it may be a token alone; for other
#: addresses only a user with a password.
_LOGIN = re.compile(r"(?:(?<=http://)|(?<=https://))[^/\s'\"]+@|(?<=://)[^/\s'\":]*:[^/\s'\"]*@", re.IGNORECASE)


def without_logins(text: str) -> str:
    """Return ``text`` with the passwords and tokens of addresses replaced."""
    return _LOGIN.sub("***@", text) if "@" in text else text


def one_line(text: str) -> str:
    """Return ``text`` `plain` and on one line; the lines are trimmed and joined by a space."""
    return " ".join(line.strip(" \t") for line in plain(text).split("\n")).strip(" \t")


def flat(text: str) -> str:
    """Return ``text`` `plain` and on one line, with leading blanks kept.

    A quoted text of a guest, such as the target of a link, could otherwise add lines that look like virtroot's own.
    """
    return plain(text).rstrip("\n").replace("\n", " ")


def split_lines(text: AnyStr) -> list[AnyStr]:
    """Split ``text`` at newlines only, as the kernel and a system's programs do.

    `str.splitlines` and `bytes.splitlines` also split at other characters, such as U+2028 or a carriage return. With
    one of these in a file, virtroot would see two lines where the system sees one.
    """
    newline = b"\n" if isinstance(text, bytes) else "\n"
    return text.removesuffix(newline).split(newline) if text else []


def split_fields(line: AnyStr, most: int = 0) -> list[AnyStr]:
    """Split ``line`` at spaces and tabs, as fstab(5) says; into at most ``most`` fields unless that is 0.

    `str.split` without an argument also splits at other characters, such as a no-break space or a form feed.
    """
    blanks = rb"[ \t]+" if isinstance(line, bytes) else r"[ \t]+"
    trimmed = trim(line)
    return re.split(blanks, trimmed, maxsplit=max(most - 1, 0)) if trimmed else []


def trim(text: AnyStr) -> AnyStr:
    """Return ``text`` without spaces, tabs and newlines at its ends; `str.strip` removes other characters, too."""
    return text.strip(b" \t\n" if isinstance(text, bytes) else " \t\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format ``rows`` as aligned columns, one line per row; the first row has the headings."""
    cells = [[one_line(cell).replace("\t", " ") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(" ") for row in cells
    )


def age(seconds: int | None) -> str:
    """Format a number of seconds in its largest unit: 40s, 12m, 5h, 3d; None is a dash."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"


def size(count: int | None) -> str:
    """Format a number of bytes in its largest unit, with one decimal below ten; None is a dash."""
    if count is None:
        return "-"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f} {units[0]}" if amount < 10 and units[0] != "B" else f"{amount:.0f} {units[0]}"


def counted(number: int, one: str, many: str) -> str:
    """Format a number with its singular or plural noun."""
    return f"{number} {one if number == 1 else many}"


def _replace(found: re.Match[str]) -> str:
    if found["line"]:
        return "\n"
    # A lone surrogate comes from a byte that is not UTF-8, and no encoding can print it.
    return "\N{REPLACEMENT CHARACTER}" if found["surrogate"] else ""
