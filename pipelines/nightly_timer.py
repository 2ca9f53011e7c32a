"""Let systemd run nightly builds of this checkout."""

from __future__ import annotations

from pipelines.builder import inputs
from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.log import result, say
from pipelines.night import timer, units
from pipelines.pool import place


@task(
    name="nightly-timer",
    iterable=["recipe"],
    help={
        "install": "write the units, or write them anew, and start the timer",
        "remove": "stop the timer and delete the units",
        "show": "print the units, and when the next night begins",
        "on-calendar": f"when: a calendar event of systemd's instead of '{units.ON_CALENDAR}'",
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe are left",
        "jobs": "how many recipes are at work side by side",
        "accept": "let the host give what recipes from outside the checkout ask of it, too: overlayfs, a network",
        "user": "your own systemd runs it, not the machine's",
    },
)
def nightly_timer_task(
    c: Context,
    recipe: list[str],
    install: bool = False,
    remove: bool = False,
    show: bool = False,
    on_calendar: str = "",
    keep: str = "",
    jobs: int = 1,
    accept: bool = False,
    user: bool = False,
) -> None:
    """Let systemd run ./inv nightly of this checkout; without systemd, print the line for a crontab.

    ./inv nightly-timer --install --jobs 2
    ./inv nightly-timer --show
    """
    if [install, remove, show].count(True) != 1:
        raise VirtrootError("what is wanted of the timer?", "give one of --install, --remove and --show")
    named = bool(on_calendar or recipe or keep or jobs != 1 or accept)
    where = timer.systemd(user=user)
    if remove:
        if named:
            raise VirtrootError("--remove has no use for options of a night", "give it alone, or with --user")
        say("the timer is gone" if timer.remove(where) else "there is no timer of this checkout")
        return
    settings = settings_of(c, keep=keep)
    recipes = [each if each in inputs.list_names() else str(inputs.get_source(each).resolve()) for each in recipe]
    for each in recipes:
        inputs.find(recipe=str(inputs.get_source(each)), snapshots=settings.snapshots)
    wanted = timer.schedule(
        settings, on_calendar, recipes, keep=keep, jobs=jobs, accept=accept, user=user, writable=place.WRITTEN
    )
    if not where.runs:
        result(timer.crontab(wanted))
    elif show:
        result(timer.show(wanted, where, preview=named))
    if install:
        timer.install(wanted, where)
        say(f"installed; the next night: {timer.next_run() or 'not known'}")
