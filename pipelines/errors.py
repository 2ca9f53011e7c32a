"""The two ways a task ends without success, apart from a bug."""

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
    """Something the user can mend: bad input, a missing tool, a stage that failed.

    ``what`` says in one line what went wrong and where; ``hint`` says in one line what to try; ``detail`` is the
    evidence (a log's tail, pacman's reason), shown before both. Each may quote what a guest or a package wrote: as text
    they are plain. ``where`` is the part of a build or boot that failed, if that is known. The task ends with exit code
    2.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str, detail: str = "", *, where: Phase | None = None) -> None:
        super().__init__(without_logins(what))
        # What is quoted may have an address with a password, and an error is shown, logged and recorded.
        self.what = without_logins(what)
        self.hint = without_logins(hint)
        self.detail = without_logins(detail)
        self.where = where

    def __str__(self) -> str:
        detail = plain(self.detail).rstrip("\n")
        lines = [detail] if detail else []
        # A line end in either would let what is quoted pass for a line of ours.
        return "\n".join([*lines, f"error: {one_line(self.what)}", f"try: {one_line(self.hint)}"])


class CheckFailed(VirtrootError):
    """A verification ran and said no. The task ends with exit code 1."""

    exit_code = 1

    def __init__(self, what: str, hint: str, detail: str = "", *, where: Phase | None = Phase.CHECK) -> None:
        super().__init__(what, hint, detail, where=where)
