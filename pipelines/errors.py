"""The exceptions that end a task without a traceback: an error, and a failed check."""

from __future__ import annotations

from enum import StrEnum

from pipelines.text import one_line, plain, without_logins


class Phase(StrEnum):
    """The part of a build, a boot or a nightly run that failed."""

    MIRROR = "mirror"
    BUILD = "build"
    INSPECT = "inspect"
    BOOT = "boot"
    CHECK = "check"
    #: The engine, libvirt, or virtroot itself.
    ENGINE = "engine"


class VirtrootError(Exception):
    """An error that the user can fix: bad input, a missing tool, a failed stage. The exit code is 2.

    ``what`` is one line: what went wrong and where. ``hint`` is one line: what to try. ``detail`` is the evidence (the
    end of a log, pacman's reason) and is shown before both. Each may quote a guest or a package; `str` removes escape
    sequences. ``where`` is the part of a build or boot that failed, if known.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str, detail: str = "", *, where: Phase | None = None) -> None:
        super().__init__(without_logins(what))
        # A quoted text may have an address with a password, and an error is printed, logged and recorded.
        self.what = without_logins(what)
        self.hint = without_logins(hint)
        self.detail = without_logins(detail)
        self.where = where

    def __str__(self) -> str:
        detail = plain(self.detail).rstrip("\n")
        lines = [detail] if detail else []
        # A newline in a quoted text could forge a line of virtroot's own.
        return "\n".join([*lines, f"error: {one_line(self.what)}", f"try: {one_line(self.hint)}"])


class CheckFailed(VirtrootError):
    """A check ran and failed. The exit code is 1."""

    exit_code = 1

    def __init__(self, what: str, hint: str, detail: str = "", *, where: Phase | None = Phase.CHECK) -> None:
        super().__init__(what, hint, detail, where=where)
