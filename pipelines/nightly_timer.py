"""Let systemd run the nightly builds of this checkout."""

from __future__ import annotations

from pipelines.builder import inputs
from pipelines.cli.task import Context, project_of, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.log import result, say
from pipelines.night import timer, units
from pipelines.pool import place


@task(
    name="nightly-timer",
    iterable=["recipe"],
    help={
        "install": "write the units, replacing earlier ones, and start the timer",
        "remove": "stop the timer and delete the units",
        "show": "print the units, and the time of the next nightly run",
        "on-calendar": f"when to run: a calendar event of systemd, by default '{units.ON_CALENDAR}'",
        "recipe": "a recipe by name or file instead of all in recipes/; may be given several times",
        "keep": "how many builds of each recipe to keep",
        "jobs": "how many recipes to process in parallel",
        "accept": "also grant what recipes from outside the checkout request from the host: overlayfs, a network",
        "user": "use your own systemd instance, not the system's",
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
    """Let systemd run ./inv nightly of this project; without systemd, print the line for a crontab.

    ./inv nightly-timer --install --jobs 2
    ./inv nightly-timer --show
    """
    if [install, remove, show].count(True) != 1:
        raise VirtrootError("no action or several actions for the timer", "use one of --install, --remove and --show")
    named = bool(on_calendar or recipe or keep or jobs != 1 or accept)
    where = timer.get_systemd(user=user)
    if remove:
        if named:
            raise VirtrootError("--remove takes no options of a nightly run", "use it alone, or with --user")
        say("removed the timer" if timer.remove(where, project_of(c)) else "this project has no timer")
        return
    settings = settings_of(c, keep=keep)
    recipes = [
        each if each in inputs.list_names(settings) else str(inputs.get_source(each, settings).resolve())
        for each in recipe
    ]
    for each in recipes:
        inputs.find(recipe=str(inputs.get_source(each, settings)), settings=settings)
    wanted = timer.make_schedule(
        settings, on_calendar, recipes, keep=keep, jobs=jobs, accept=accept, user=user, writable=place.WRITTEN
    )
    if not where.is_running:
        result(timer.format_crontab(wanted))
    elif show:
        result(timer.format_units(wanted, where, preview=named))
    if install:
        timer.install(wanted, where)
        say(f"installed the timer; next nightly run: {timer.find_next_run(wanted.project) or 'not known'}")
