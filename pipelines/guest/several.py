"""Do the same with several guests: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest import guest as guests
from pipelines.log import prefix_lines, say, warn

#: The most guests that are worked on at the same time.
_AT_ONCE = 8

#: The help of the option that stands for the names.
ALL = {"all": "all guests that are not temporary, in place of names"}


def list_names(
    given: Sequence[str], ctx: CommandContext, *, all_of_them: bool, running: bool | None = None
) -> list[str]:
    """Return the names ``given``, without repetitions, or those of all guests that are not temporary.

    With ``running`` only those of all guests that run, or do not run. Raises `VirtrootError` for names and
    ``--all``, and for neither.
    """
    if given and all_of_them:
        raise VirtrootError("--all and names of guests exclude each other", "use only one of them")
    if not given and not all_of_them:
        raise VirtrootError("no guest is named", "name one or several, or use --all")
    if not all_of_them:
        return list(dict.fromkeys(given))
    found = [guest for guest in guests.list_guests(ctx.hypervisor) if not guest.transient]
    return [guest.name for guest in found if running is None or guest.running == running]


def for_each(names: Sequence[str], do: Callable[[str], object], *, at_once: bool = False) -> None:
    """Call ``do`` with each of ``names``, with ``at_once`` with several at the same time.

    The error of a single name is raised as it is. Of several, each is printed, and `VirtrootError` says at the end how
    many failed; `CheckFailed`, if all of them are failed checks.
    """
    if not names:
        say("no guest to work on")
    if len(names) == 1:
        do(names[0])
        return
    failed: dict[str, VirtrootError] = {}

    def run(name: str) -> None:
        with prefix_lines(name):
            try:
                do(name)
            except VirtrootError as error:
                failed[name] = error
                warn(f"{error.what}; {error.hint}")

    if at_once:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(run, names))
    else:
        for name in names:
            run(name)
    if failed:
        kind = CheckFailed if all(isinstance(error, CheckFailed) for error in failed.values()) else VirtrootError
        raise kind(
            f"failed for {len(failed)} of {len(names)} guests: {', '.join(name for name in names if name in failed)}",
            "read the warnings above",
        )
