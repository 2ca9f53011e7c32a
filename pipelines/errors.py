"""The two ways a task ends without success, apart from a bug."""

from __future__ import annotations


class VirtrootError(Exception):
    """Something the user can mend: bad input, a missing tool, a stage that failed.

    ``what`` says in one line what went wrong and where; ``hint`` says in one line what to try; ``detail`` is the
    evidence (a log's tail, pacman's reason), shown before both. The task ends with exit code 2.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        lines = [self.detail.rstrip("\n")] if self.detail else []
        return "\n".join([*lines, f"error: {self.what}", f"try: {self.hint}"])


class CheckFailed(VirtrootError):
    """A verification ran and said no. The task ends with exit code 1."""

    exit_code = 1
